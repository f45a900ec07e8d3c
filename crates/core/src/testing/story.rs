//! Histories of small rooms with forks, from lists of numbers.

use ruma::OwnedUserId;
use serde_json::json;

use super::{Draft, Room, third_party_invite, third_party_signed, user};
use crate::{
    room_version::RoomVersion,
    state::{Change, Membership, State},
};

/// How many users act.
const ACTORS: usize = 6;

/// How many branches a room can have.
const BRANCHES: usize = 4;

/// How many users just sit there.
const BYSTANDERS: usize = 30;

/// Something that happens on one branch.
#[derive(Clone, Debug)]
pub struct Step {
    branch: usize,
    actor: usize,
    clock_error: i64,
    action: Action,
}

/// What can happen. Who is not allowed to do a thing doesn't.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Gives somebody a power level.
    Promote(usize, i64),
    /// Sets the level that something takes.
    Turn(Knob, i64),
    /// Sets the join rule.
    JoinRule(&'static str),
    /// Joins, or changes their profile.
    Join,
    /// Joins by the word of somebody in the room.
    JoinVia(usize),
    /// Asks to be let in.
    Knock,
    /// Leaves, or declines.
    Leave,
    /// Invites somebody.
    Invite(usize),
    /// Invites an e-mail address.
    InviteAddress(usize),
    /// Invites whoever has proved to have that address.
    InviteOwner(usize, usize),
    /// Removes somebody, or lifts their ban.
    Kick(usize),
    /// Keeps somebody out.
    Ban(usize),
    /// Sets state that decides about nothing.
    Topic(usize),
    /// Makes another branch like this one.
    Fork(usize),
    /// Takes some of another branch's entries, as servers might who heard of some events only.
    Mix(usize, u32),
}

/// What power levels say beside the users' levels.
#[derive(Clone, Copy, Debug)]
pub enum Knob {
    /// Inviting.
    Invite,
    /// Removing others.
    Kick,
    /// Banning.
    Ban,
    /// Sending state.
    State,
}

impl Step {
    /// Every number is a step. Small numbers give tame ones, so that shrinking helps.
    pub fn from_number(number: u64) -> Self {
        let mut rest = number;
        let mut digit = |base: u64| {
            let digit = rest % base;
            rest /= base;
            digit as usize
        };
        let branch = digit(BRANCHES as u64);
        let actor = digit(ACTORS as u64);
        let kind = digit(24);
        let (other, level) = (digit(ACTORS as u64), [0, 25, 50, 75, 100][digit(5)]);
        let clock_error = [0, 0, -10, -40, 35][digit(5)];
        let action = match kind {
            0..=2 => Action::Join,
            3..=6 => Action::Promote(other, level),
            7..=8 => {
                let knob = [Knob::Invite, Knob::Kick, Knob::Ban, Knob::State][digit(4)];
                Action::Turn(knob, level)
            }
            9..=10 => {
                let rules = [
                    "public",
                    "invite",
                    "knock",
                    "restricted",
                    "knock_restricted",
                ];
                Action::JoinRule(rules[digit(5)])
            }
            11 => Action::JoinVia(other),
            12 => Action::Knock,
            13 => Action::Leave,
            14..=15 => Action::Invite(other),
            16 => Action::InviteAddress(digit(2)),
            17 => Action::InviteOwner(other, digit(2)),
            18..=19 => Action::Kick(other),
            20 => Action::Ban(other),
            21 => Action::Topic(digit(3)),
            22 => Action::Fork(digit(BRANCHES as u64)),
            _ => Action::Mix(digit(BRANCHES as u64), digit(1 << 16) as u32),
        };
        Self {
            branch,
            actor,
            clock_error,
            action,
        }
    }
}

/// A room with the states of its branches.
#[derive(Clone, Debug)]
pub struct Story {
    /// The room.
    pub room: Room,
    /// The state at the end of each branch.
    pub states: Vec<State>,
}

impl Story {
    /// Lets happen what the numbers say, on 2 to 4 branches.
    pub fn tell(version: RoomVersion, branches: usize, numbers: &[u64]) -> Self {
        let (mut room, mut start) = Room::new(version);
        for n in (1..ACTORS).chain(100..100 + BYSTANDERS) {
            let join = Draft::membership(&user(n), &user(n), Membership::Join, json!({}));
            room.write(&mut start, &join);
        }
        let states = vec![start; branches.clamp(2, BRANCHES)];
        let mut story = Self { room, states };
        for number in numbers {
            story.take(&Step::from_number(*number));
        }
        story
    }

    fn take(&mut self, step: &Step) {
        let branch = step.branch % self.states.len();
        match step.action {
            Action::Fork(to) => {
                let to = to % self.states.len();
                self.states[to] = self.states[branch].clone();
            }
            Action::Mix(from, choice) => {
                let from = self.states[from % self.states.len()].clone();
                self.mix(branch, &from, choice);
            }
            _ => {
                let mut draft = self.draft(branch, user(step.actor), step.action);
                draft.clock_error = step.clock_error;
                self.room.write(&mut self.states[branch], &draft);
            }
        }
    }

    fn mix(&mut self, branch: usize, from: &State, choice: u32) {
        let changes = self.states[branch].diff(from);
        let chosen = |(n, _): &(usize, &Change)| choice >> (n % 16) & 1 == 1;
        for (_, change) in changes.iter().enumerate().filter(chosen) {
            self.states[branch].set(&self.room.keys, change.key, change.new);
        }
    }

    fn draft(&self, branch: usize, actor: OwnedUserId, action: Action) -> Draft {
        let membership =
            |target: usize, value| Draft::membership(&actor, &user(target), value, json!({}));
        let own = |value, extra| Draft::membership(&actor, &actor, value, extra);
        match action {
            Action::Promote(target, level) => {
                self.levels(branch, &actor, "users", user(target).as_str(), level)
            }
            Action::Turn(knob, level) => {
                let name = match knob {
                    Knob::Invite => "invite",
                    Knob::Kick => "kick",
                    Knob::Ban => "ban",
                    Knob::State => "state_default",
                };
                self.levels(branch, &actor, "", name, level)
            }
            Action::JoinRule(rule) => {
                let content = json!({ "join_rule": rule, "allow": [] });
                Draft::new(&actor, "m.room.join_rules", "", content)
            }
            Action::Join => own(Membership::Join, json!({ "displayname": self.room.len() })),
            Action::JoinVia(other) => {
                let via = user(other);
                own(
                    Membership::Join,
                    json!({ "join_authorised_via_users_server": via }),
                )
            }
            Action::Knock => own(Membership::Knock, json!({})),
            Action::Leave => own(Membership::Leave, json!({})),
            Action::Invite(target) => membership(target, Membership::Invite),
            Action::InviteAddress(token) => Draft::new(
                &actor,
                "m.room.third_party_invite",
                token.to_string(),
                third_party_invite(),
            ),
            Action::InviteOwner(target, token) => {
                let extra = third_party_signed(&user(target), &token.to_string());
                Draft::membership(&actor, &user(target), Membership::Invite, extra)
            }
            Action::Kick(target) => membership(target, Membership::Leave),
            Action::Ban(target) => membership(target, Membership::Ban),
            Action::Topic(n) => Draft::new(&actor, "m.room.topic", n.to_string(), json!({})),
            Action::Fork(_) | Action::Mix(..) => unreachable!("nobody writes an event for that"),
        }
    }

    /// Power levels that differ from those in force in one place.
    fn levels(
        &self,
        branch: usize,
        actor: &OwnedUserId,
        part: &str,
        name: &str,
        level: i64,
    ) -> Draft {
        let current = self
            .room
            .entry(&self.states[branch], "m.room.power_levels", "");
        let current = current.and_then(|event| serde_json::from_str(event.pdu.content.get()).ok());
        let mut content = current.unwrap_or(json!({ "users": {} }));
        match part {
            "" => content[name] = level.into(),
            part => content[part][name] = level.into(),
        }
        Draft::new(actor, "m.room.power_levels", "", content)
    }
}
