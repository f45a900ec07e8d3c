//! What must hold when everything has been healed and delivered.

use std::collections::BTreeMap;

use myelin_core::{event::Verdict, visibility::TYING};
use ruma::OwnedEventId;

use crate::{
    liar::Forgery,
    reader::Reader,
    run::name,
    view::{Opinion, View},
    workload::{Acknowledged, Room},
};

/// More violations of a kind than this say nothing new.
const ENOUGH: usize = 3;

/// What the servers hold of a room at the end: by the server's number.
pub type Views = BTreeMap<usize, View>;

/// What was violated, for people.
#[derive(Debug, Default)]
pub struct Violations(BTreeMap<&'static str, Vec<String>>);

impl Violations {
    /// Notes that something was violated.
    pub fn add(&mut self, what: &'static str, how: String) {
        self.0.entry(what).or_default().push(how);
    }

    /// A line for each, the first ones of each kind.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, found) in &self.0 {
            for how in found.iter().take(ENOUGH) {
                lines.push(format!("{what}: {how}"));
            }
            if found.len() > ENOUGH {
                lines.push(format!("{what}: {} in all", found.len()));
            }
        }
        lines
    }
}

/// Compares what the servers think of a room.
pub fn room(number: usize, room: &Room, views: &Views, violations: &mut Violations) {
    let mut first: BTreeMap<&str, (usize, &Opinion)> = BTreeMap::new();
    for (server, view) in views {
        for (id, opinion) in &view.events {
            // An outlier was judged by its own auth events only.
            if opinion.before.is_none() || (opinion.is_partial() && view.is_forsaken) {
                continue;
            }
            match first.get(id.as_str()) {
                None => drop(first.insert(id.as_str(), (*server, opinion))),
                Some((other, known)) => {
                    let place = format!(
                        "{id} ({}) of room {number} at {other} and {server}",
                        known.summary()
                    );
                    compare(known, opinion, &place, violations);
                }
            }
        }
    }
    let mut pairs = views
        .iter()
        .flat_map(|one| views.iter().map(move |other| (one, other)));
    // Who doesn't take the other for a server in the room sends it nothing.
    let together = |a: &usize, one: &View, b: &usize, other: &View| {
        let knows = |view: &View, server| view.servers.contains(&name(server));
        a < b && knows(one, *b) && knows(other, *a) && knows(one, *a) && knows(other, *b)
    };
    let apart = pairs.find(|((a, one), (b, other))| {
        let must_agree = room.is_strict || together(a, one, b, other);
        must_agree && one.current != other.current
    });
    if let Some(((a, one), (b, other))) = apart {
        let only = |x: &View, y: &View| -> Vec<String> {
            let only = x.current.difference(&y.current);
            only.map(|id| format!("{id} ({})", x.events[id].summary()))
                .collect()
        };
        let (there, here) = (only(one, other), only(other, one));
        violations.add(
            "current state",
            format!("room {number} at {a} {there:?} and at {b} {here:?}"),
        );
    }
}

fn compare(one: &Opinion, other: &Opinion, place: &str, violations: &mut Violations) {
    let is_rejected = |opinion: &Opinion| opinion.verdict() == Verdict::Rejected;
    if is_rejected(one) != is_rejected(other) {
        violations.add(
            "verdict",
            format!("{place}: {:?} and {:?}", one.verdict(), other.verdict()),
        );
    }
    for opinion in [one, other] {
        if opinion.is_partial() {
            violations.add("partial state", place.to_owned());
        }
    }
    if one.before != other.before {
        violations.add("state before", place.to_owned());
    }
}

/// Whether each message, however often its request was repeated, made one event.
pub fn sent_once(number: usize, views: &Views, violations: &mut Violations) {
    let mut first: BTreeMap<(String, &str), &str> = BTreeMap::new();
    for (id, opinion) in views.values().flat_map(|view| &view.events) {
        let pdu = &opinion.event.pdu;
        // Of an event that came redacted, nothing is left by which to know it.
        let is_redacted = !pdu.content.get().contains("\"body\"");
        let is_message = pdu.event_type.to_string() == "m.room.message";
        if !is_message || is_redacted || opinion.verdict() == Verdict::Rejected {
            continue;
        }
        let message = (pdu.sender.to_string(), pdu.content.get());
        let known = *first.entry(message).or_insert(id.as_str());
        if known != id.as_str() {
            violations.add("sent twice", format!("{known} and {id} of room {number}"));
        }
    }
}

/// Whether everybody to whom a server lied says what is to be said.
pub fn forgeries(forgeries: &[Forgery], views: &Views, violations: &mut Violations) {
    for forgery in forgeries {
        let id = forgery.pdu.event_id.as_str();
        // The liar keeps its lies from itself.
        for (server, view) in views.iter().filter(|(server, _)| **server != 1) {
            let verdict = view.opinion(id).map(Opinion::verdict);
            let is_right = match verdict {
                Some(verdict) => verdict == forgery.expected,
                None => forgery.may_be_dropped || !is_tied(view, forgery),
            };
            if !is_right {
                let (what, expected) = (forgery.what, forgery.expected);
                violations.add(
                    "forged",
                    format!("{id} ({what}) is {verdict:?} at {server}, not {expected:?}"),
                );
            }
        }
    }
}

/// Whether the server has in its timeline what the forgery hangs on. Else it is too old to be kept.
fn is_tied(view: &View, forgery: &Forgery) -> bool {
    let parents = &forgery.pdu.prev_events;
    parents.iter().all(|parent| {
        let known = view.events.get(parent);
        known.is_some_and(|known| known.before.is_some())
    })
}

/// Whether everything that was acknowledged is there, and where the room was all the time everywhere.
pub fn acknowledged(
    sent: &[Acknowledged],
    rooms: &[Room],
    views: &[Views],
    violations: &mut Violations,
) {
    for event in sent {
        for (server, view) in &views[event.room] {
            let opinion = view.opinion(&event.event_id);
            let must_have = *server == event.server || rooms[event.room].is_strict;
            let place = || {
                let Acknowledged {
                    event_id,
                    server: by,
                    ..
                } = event;
                format!(
                    "{event_id} of room {}, acknowledged by {by}, at {server}",
                    event.room
                )
            };
            match opinion {
                None if must_have => violations.add("lost", place()),
                // What was said while the room's state was partial may be rejected since then.
                Some(opinion)
                    if *server == event.server
                        && !event.while_partial
                        && opinion.verdict() != Verdict::Accepted =>
                {
                    violations.add("acknowledged and refused", place());
                }
                _ => {}
            }
        }
    }
}

/// Whether a client was shown what its server has, once and in order.
pub fn shown(reader: &Reader, rooms: &[Room], views: &[Views], violations: &mut Violations) {
    let user = &reader.client().user_id;
    for complaint in reader.complaints() {
        violations.add("shown", format!("to {user}: {complaint}"));
    }
    for (number, room) in rooms.iter().enumerate() {
        let Some(view) = views[number].get(&reader.client().server) else {
            continue;
        };
        let shown = reader.shown(&room.id);
        let order: BTreeMap<&str, usize> = view
            .timeline
            .iter()
            .enumerate()
            .map(|(place, id)| (id.as_str(), place))
            .collect();
        let places: Vec<Option<usize>> = shown
            .iter()
            .map(|id| order.get(id.as_str()).copied())
            .collect();
        // What was accepted while the room's state was partial may be rejected since then.
        let was_withdrawn = |id: &str| {
            let known = view.opinion(id);
            !room.is_strict && known.is_some_and(|known| known.verdict() != Verdict::Accepted)
        };
        let unplaced = places
            .iter()
            .zip(&shown)
            .find(|(place, id)| place.is_none() && !was_withdrawn(id));
        if let Some((_, id)) = unplaced {
            violations.add(
                "shown",
                format!("{id} of room {number} to {user}, but it isn't in the timeline"),
            );
        }
        let places: Vec<usize> = places.into_iter().flatten().collect();
        if let Some(at) = places.windows(2).position(|pair| pair[0] >= pair[1]) {
            violations.add(
                "shown",
                format!("{} of room {number} to {user} out of order", shown[at + 1]),
            );
        }
        // Who is in the room from the beginning to the end misses nothing but what no client is shown.
        if let (true, Some(begin)) = (reader.is_bound_to(&room.id), places.first()) {
            let is_kept_back = |id: &&OwnedEventId| {
                view.events[*id].event.pdu.event_type.to_string() != TYING
                    && !shown.iter().any(|shown| shown == id.as_str())
            };
            let kept_back = view.timeline[*begin..].iter().filter(is_kept_back);
            let kept_back = kept_back.map(|id| format!("{id} ({})", view.events[id].summary()));
            let kept_back: Vec<String> = kept_back.take(ENOUGH).collect();
            if !kept_back.is_empty() {
                let how = format!("{kept_back:?} of room {number} never to {user}");
                violations.add("shown", how);
            }
        }
    }
}
