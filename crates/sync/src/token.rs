//! Tokens: where a client has got to.
//!
//! A token is a vector over streams, a position a number in one of them. The text begins with the kind
//! of token and the version of its form, so that further streams, or several writers of one, can be
//! added without taking an old token for something else.

use std::{fmt, str::FromStr};

use myelin_core::number::StreamPosition;
use myelin_storage::{events::Direction, timelines::HistoryPlace};

use crate::SyncError;

/// What a client has been told of by `/sync`: everything up to here, in each stream.
/// `s2_<events>_<to_device>_<typing>_<receipts>_<presence>`; what is missing at the end of an older one is 0, and
/// tokens of before there was a second stream are `s1_<events>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// In the stream of events. Resyncs that end, and memberships that come without an event of the
    /// timeline, have positions there too.
    pub events: StreamPosition,
    /// In the stream of messages to devices and of account data.
    pub to_device: StreamPosition,
    /// In the stream of who types.
    pub typing: StreamPosition,
    /// In the stream of receipts.
    pub receipts: StreamPosition,
    /// In the stream of who is there.
    pub presence: StreamPosition,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            events,
            to_device,
            typing,
            receipts,
            presence,
        } = self;
        write!(
            formatter,
            "s2_{events}_{to_device}_{typing}_{receipts}_{presence}"
        )
    }
}

impl FromStr for SyncToken {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self, SyncError> {
        let positions = match read(text) {
            Some(("s1", positions)) if positions.len() == 1 => positions,
            Some(("s2", positions)) if positions.len() >= 2 => positions,
            _ => return Err(unknown(text)),
        };
        if positions.len() > 5 || positions.iter().any(|position| *position < 0) {
            return Err(unknown(text));
        }
        let position = |index: usize| StreamPosition(positions.get(index).copied().unwrap_or(0));
        Ok(Self {
            events: position(0),
            to_device: position(1),
            typing: position(2),
            receipts: position(3),
            presence: position(4),
        })
    }
}

/// A place between two events of a room, where a page of history begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageToken {
    /// After everything up to a position, negative ones (backfilled events) included: `s1_<events>`, or
    /// a [`SyncToken`]. What a client already has from `/sync` lies after it, whatever its depth.
    Stream(StreamPosition),
    /// Just before a place in topological order. `t1_<depth>_<position>_<upto>`.
    History {
        /// The place.
        place: HistoryPlace,
        /// Going back from here, events after this position are passed over: the client has them.
        upto: StreamPosition,
    },
}

impl PageToken {
    /// Where to begin if that isn't said: with the last event up to a position, or the first of all.
    pub(crate) fn first(direction: Direction, upto: StreamPosition) -> Self {
        match direction {
            Direction::Backward => Self::Stream(upto),
            Direction::Forward => Self::History {
                place: HistoryPlace::START,
                upto,
            },
        }
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(position) => write!(formatter, "s1_{position}"),
            Self::History {
                place: HistoryPlace { depth, position },
                upto,
            } => {
                write!(formatter, "t1_{depth}_{position}_{upto}")
            }
        }
    }
}

impl FromStr for PageToken {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self, SyncError> {
        if let Ok(token) = text.parse::<SyncToken>() {
            return Ok(Self::Stream(token.events));
        }
        match read(text) {
            Some(("s1", positions)) if positions.len() == 1 => {
                Ok(Self::Stream(StreamPosition(positions[0])))
            }
            Some(("t1", numbers)) if numbers.len() == 3 => Ok(Self::History {
                place: HistoryPlace {
                    depth: numbers[0],
                    position: StreamPosition(numbers[1]),
                },
                upto: StreamPosition(numbers[2]),
            }),
            _ => Err(unknown(text)),
        }
    }
}

/// Where a page of notifications ended: just before a position in the stream of events. `n1_<position>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationToken(pub StreamPosition);

impl fmt::Display for NotificationToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "n1_{}", self.0)
    }
}

impl FromStr for NotificationToken {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self, SyncError> {
        match read(text) {
            Some(("n1", positions)) if positions.len() == 1 => {
                Ok(Self(StreamPosition(positions[0])))
            }
            _ => Err(unknown(text)),
        }
    }
}

/// Where a page of a search ended. `q1_<before>_<shown>`, and within a group `_<group>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchToken {
    /// By time: the next page is before this position in the stream of events. By rank: all results are.
    pub before: StreamPosition,
    /// How many results were shown on the pages before.
    pub shown: usize,
    /// The room or user whose results alone follow.
    pub group: Option<String>,
}

impl fmt::Display for SearchToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "q1_{}_{}", self.before, self.shown)?;
        match &self.group {
            Some(group) => write!(formatter, "_{group}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SearchToken {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self, SyncError> {
        let mut parts = text.splitn(4, '_');
        let start: Vec<&str> = parts.by_ref().take(3).collect();
        let group = parts.next().map(str::to_owned);
        match read(&start.join("_")) {
            Some(("q1", numbers)) if numbers.len() == 2 => Ok(Self {
                before: StreamPosition(numbers[0]),
                shown: usize::try_from(numbers[1]).map_err(|_| unknown(text))?,
                group,
            }),
            _ => Err(unknown(text)),
        }
    }
}

/// A token's kind and numbers. Only what was written here is read: "+1" and "01" were not.
fn read(text: &str) -> Option<(&str, Vec<i64>)> {
    let mut parts = text.split('_');
    let kind = parts.next()?;
    let numbers = parts.map(|part| {
        let number: i64 = part.parse().ok()?;
        (number.to_string() == part).then_some(number)
    });
    Some((kind, numbers.collect::<Option<_>>()?))
}

fn unknown(text: &str) -> SyncError {
    let start: String = text.chars().take(60).collect();
    SyncError::InvalidParam(format!("Not a token of this server: {start:?}"))
}

#[cfg(test)]
mod tests {
    use super::{HistoryPlace, PageToken, SearchToken, StreamPosition, SyncToken};
    use proptest::{prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn every_token_is_read_as_it_was_written(depth: i64, position: i64, upto: i64) {
            let place = HistoryPlace { depth, position: StreamPosition(position) };
            let tokens = [
                PageToken::Stream(StreamPosition(position)),
                PageToken::History { place, upto: StreamPosition(upto) },
            ];
            for token in tokens {
                prop_assert_eq!(token.to_string().parse::<PageToken>().expect("a token"), token);
            }
        }
    }

    #[test]
    fn a_page_of_a_search_goes_on_where_it_ended() {
        for text in [
            "q1_17_0",
            "q1_-3_20",
            "q1_17_5_!a_b:x.example",
            "q1_17_0_@a:x.example",
        ] {
            let token: SearchToken = text.parse().expect("a token");
            assert_eq!(token.to_string(), text);
        }
        for text in [
            "", "q1", "q1_1", "q1_1_-1", "q1_01_1", "q1_1_x", "q2_1_1", "n1_1", "t1_1_2_3",
        ] {
            assert!(text.parse::<SearchToken>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sync_token_is_where_a_page_can_begin() {
        let token = SyncToken {
            events: StreamPosition(17),
            to_device: StreamPosition(4),
            typing: StreamPosition(5),
            receipts: StreamPosition(0),
            presence: StreamPosition(9),
        };
        assert_eq!(
            token.to_string().parse::<SyncToken>().expect("a token"),
            token
        );
        let page: PageToken = token.to_string().parse().expect("a token");
        assert_eq!(page, PageToken::Stream(StreamPosition(17)));
    }

    #[test]
    fn tokens_of_before_there_were_other_streams_are_still_good() {
        let token: SyncToken = "s1_17".parse().expect("a token");
        assert_eq!(token.events, StreamPosition(17));
        assert_eq!(token.to_device, StreamPosition(0));
        let token: SyncToken = "s2_17_4".parse().expect("a token");
        assert_eq!(token.to_string(), "s2_17_4_0_0_0");
        let token: SyncToken = "s2_17_4_5_6".parse().expect("a token");
        assert_eq!(token.presence, StreamPosition(0));
    }

    #[test]
    fn what_was_not_written_here_is_no_token() {
        let foreign = [
            "",
            "s",
            "s1",
            "s1_",
            "s1_x",
            "s1_+1",
            "s1_01",
            "s1_1_2",
            "s2_1",
            "s2_1_-1",
            "s2_1_02",
            "s2_1_2_3_4_5_6_7",
            "s3_1_2",
            "s72594_4483_1934",
            "t1_1_2",
            "t1_1_2_3_4",
            "t2_1_2_3",
            "s1_99999999999999999999",
            "s1_1 ",
            "S1_1",
        ];
        for text in foreign {
            assert!(text.parse::<PageToken>().is_err(), "{text:?}");
        }
        // Where /messages may begin, but nothing that /sync could continue from.
        for text in ["s1_-1", "t1_1_2_3"] {
            assert!(text.parse::<SyncToken>().is_err(), "{text:?}");
            assert!(text.parse::<PageToken>().is_ok(), "{text:?}");
        }
    }
}
