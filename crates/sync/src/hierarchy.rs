//! The tree of a space, over all servers that know parts of it (client-server API, "Querying the
//! hierarchy"; server-server API, "Spaces").

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use myelin_federation::RemoteHierarchy;
use myelin_users::Requester;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Sync, SyncError,
    space::{Asker, Node},
};

/// The most rooms of one answer.
const MOST_ROOMS: usize = 50;

/// How deep a tree is followed.
const DEEPEST: usize = 20;

/// How many rooms are looked at for one request, those of earlier pages included.
const MOST_VISITED: usize = 1_000;

/// How many servers are asked for one room.
const ASKED_SERVERS: usize = 5;

/// How long other servers may take for all rooms of one request together. Those that are not described
/// by then are left out.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// How long another server's answer is used again.
const FRESH_MS: u64 = 5 * 60 * 1000;
const MOST_KEPT: usize = 500;

/// What is asked of a space.
#[derive(Clone, Debug)]
pub struct HierarchyRequest {
    /// Only children that the space suggests.
    pub suggested_only: bool,
    /// The most rooms to answer with.
    pub limit: Option<usize>,
    /// How many steps away from the space rooms may be.
    pub max_depth: Option<usize>,
    /// Where to go on: `next_batch` of an earlier answer to the same question.
    pub from: Option<String>,
}

/// Part of a tree, depth first.
#[derive(Clone, Debug, Serialize)]
pub struct Hierarchy {
    /// The rooms.
    pub rooms: Vec<Map<String, Value>>,
    /// Where the next part begins; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

/// What another server is told of a space.
#[derive(Clone, Debug, Serialize)]
pub struct ServedHierarchy {
    /// The space, with its children's state.
    pub room: Map<String, Value>,
    /// The children, without theirs.
    pub children: Vec<Map<String, Value>>,
    /// Children that the server may not know of.
    pub inaccessible_children: Vec<OwnedRoomId>,
}

/// Answers of other servers, for a while.
#[derive(Debug, Default)]
pub(crate) struct RemoteSpaces(Mutex<HashMap<Question, (u64, Arc<RemoteHierarchy>)>>);

/// The room, and whether only suggested children are wanted.
type Question = (OwnedRoomId, bool);

impl RemoteSpaces {
    fn get(&self, key: &Question, now_ms: u64) -> Option<Arc<RemoteHierarchy>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, answer) = kept.get(key)?;
        (now_ms.saturating_sub(*since) < FRESH_MS).then(|| answer.clone())
    }

    fn put(&self, key: Question, answer: Arc<RemoteHierarchy>, now_ms: u64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, (since, _)| now_ms.saturating_sub(*since) < FRESH_MS);
        }
        if kept.len() < MOST_KEPT {
            kept.insert(key, (now_ms, answer));
        }
    }
}

/// A room that is to be looked at.
struct Visit {
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    depth: usize,
}

/// One walk through a tree.
struct Walk<'a> {
    sync: &'a Sync,
    viewer: &'a Requester,
    suggested_only: bool,
    /// For how long other servers may still be waited for.
    patience: Duration,
    /// What servers said of children that nobody was asked for yet.
    mentioned: HashMap<OwnedRoomId, Map<String, Value>>,
}

impl Sync {
    /// The tree of a space as far as a user may see it.
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] if the user may not see the space itself, [`SyncError::InvalidParam`]
    /// for a `from` that was not given out for this question, [`SyncError::Storage`].
    pub async fn hierarchy(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
        request: &HierarchyRequest,
    ) -> Result<Hierarchy, SyncError> {
        let depth = request.max_depth.unwrap_or(DEEPEST).min(DEEPEST);
        let question = format!("{depth}_{}", u8::from(request.suggested_only));
        let skipped = match &request.from {
            None => 0,
            Some(token) => read_token(token, &question)?,
        };
        let limit = request.limit.unwrap_or(MOST_ROOMS).clamp(1, MOST_ROOMS);
        let mut walk = Walk {
            sync: self,
            viewer,
            suggested_only: request.suggested_only,
            patience: LONGEST_WAIT,
            mentioned: HashMap::new(),
        };
        let mut stack = vec![Visit {
            room_id: room_id.to_owned(),
            via: Vec::new(),
            depth: 0,
        }];
        let (mut visited, mut seen, mut rooms) = (HashSet::new(), 0, Vec::new());
        while let Some(visit) = stack.pop() {
            if visited.len() >= MOST_VISITED || !visited.insert(visit.room_id.clone()) {
                continue;
            }
            let Some(node) = walk.look_at(&visit).await? else {
                if visit.depth == 0 {
                    return Err(SyncError::Forbidden("You may not see this room".to_owned()));
                }
                continue;
            };
            if rooms.len() == limit {
                let next_batch = Some(format!("h1_{}_{question}", skipped + limit));
                return Ok(Hierarchy { rooms, next_batch });
            }
            if visit.depth < depth {
                stack.extend(node.children.into_iter().rev().map(|child| Visit {
                    room_id: child.room_id,
                    via: child.via,
                    depth: visit.depth + 1,
                }));
            }
            seen += 1;
            if seen > skipped {
                rooms.push(node.shown);
            }
        }
        Ok(Hierarchy {
            rooms,
            next_batch: None,
        })
    }

    /// What another server is told of a room and its children; `None` if it may not know of it.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn serve_hierarchy(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<ServedHierarchy>, SyncError> {
        let asker = Asker::Server(origin);
        let Some((node, true)) = self.known_here(asker, room_id, suggested_only).await? else {
            return Ok(None);
        };
        let mut served = ServedHierarchy {
            room: node.shown,
            children: Vec::new(),
            inaccessible_children: Vec::new(),
        };
        for child in node.children {
            match self
                .known_here(asker, &child.room_id, suggested_only)
                .await?
            {
                Some((mut node, true)) => {
                    node.shown.remove("children_state");
                    served.children.push(node.shown);
                }
                Some((_, false)) => served.inaccessible_children.push(child.room_id),
                // Others may know it.
                None => {}
            }
        }
        Ok(Some(served))
    }

    /// A room that this server is in, and whether the asker may see it.
    async fn known_here(
        &self,
        asker: Asker<'_>,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<(Node, bool)>, SyncError> {
        let Some(room) = self.rooms().room(room_id).await? else {
            return Ok(None);
        };
        let Some(node) = self.local_node(&room, suggested_only).await? else {
            return Ok(None);
        };
        let may_see = self.may_see(asker, &node, Some(&room)).await?;
        Ok(Some((node, may_see)))
    }
}

impl Walk<'_> {
    /// A room, if it is found and the viewer may see it.
    async fn look_at(&mut self, visit: &Visit) -> Result<Option<Node>, SyncError> {
        let asker = Asker::User(&self.viewer.user_id);
        let here = self
            .sync
            .known_here(asker, &visit.room_id, self.suggested_only)
            .await?;
        if let Some((node, may_see)) = here {
            return Ok(may_see.then_some(node));
        }
        let Some(node) = self.ask_for(visit).await else {
            return Ok(None);
        };
        // An invite from there is known here.
        let room = self.sync.rooms().room(&visit.room_id).await?;
        let may_see = self.sync.may_see(asker, &node, room.as_ref()).await?;
        Ok(may_see.then_some(node))
    }

    /// A room that this server is not in.
    async fn ask_for(&mut self, visit: &Visit) -> Option<Node> {
        let mentioned = self.mentioned.remove(&visit.room_id).and_then(|mut shown| {
            shown.insert("children_state".to_owned(), Value::Array(Vec::new()));
            Node::read(&visit.room_id, shown, self.suggested_only)
        });
        // Only spaces have more to tell than their parent's server said.
        if let Some(node) = mentioned.as_ref().filter(|node| !node.is_space()) {
            return Some(node.clone());
        }
        let clock = &self.sync.rooms().env().clock;
        let begun = clock.instant();
        let asked = clock.timeout(self.patience, self.remote(visit)).await;
        self.patience = self.patience.saturating_sub(begun.elapsed(clock));
        let Some(answer) = asked.ok().flatten() else {
            return mentioned;
        };
        for child in &answer.children {
            let id = child.get("room_id").and_then(Value::as_str);
            if let Some(id) = id.and_then(|id| OwnedRoomId::try_from(id).ok()) {
                self.mentioned.entry(id).or_insert_with(|| child.clone());
            }
        }
        Node::read(&visit.room_id, answer.room.clone(), self.suggested_only)
    }

    /// What the first server that can says of a room.
    async fn remote(&self, visit: &Visit) -> Option<Arc<RemoteHierarchy>> {
        let rooms = self.sync.rooms();
        let spaces = self.sync.remote_spaces();
        let key = (visit.room_id.clone(), self.suggested_only);
        if let Some(kept) = spaces.get(&key, rooms.env().clock.now_ms()) {
            return Some(kept);
        }
        let named = visit.room_id.server_name().map(ToOwned::to_owned);
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for server in visit.via.iter().cloned().chain(named) {
            if server != rooms.server_name() && !servers.contains(&server) {
                servers.push(server);
            }
        }
        for server in servers.iter().take(ASKED_SERVERS) {
            let federation = rooms.federation();
            match federation.hierarchy(server, &key.0, key.1).await {
                Ok(answer) => {
                    let answer = Arc::new(answer);
                    spaces.put(key, answer.clone(), rooms.env().clock.now_ms());
                    return Some(answer);
                }
                Err(error) => {
                    tracing::debug!(room = %key.0, %server, %error, "a space could not be asked for");
                }
            }
        }
        None
    }
}

/// How many rooms a token skips. It is of use for the question that it was given out for.
fn read_token(token: &str, question: &str) -> Result<usize, SyncError> {
    let wrong = |why: &str| SyncError::InvalidParam(why.to_owned());
    let rest = token
        .strip_prefix("h1_")
        .and_then(|rest| rest.split_once('_'));
    let (skipped, of) = rest.ok_or_else(|| wrong("`from` was not given out by this server"))?;
    if of != question {
        return Err(wrong(
            "`suggested_only` and `max_depth` can't change between pages",
        ));
    }
    skipped
        .parse()
        .map_err(|_| wrong("`from` was not given out by this server"))
}
