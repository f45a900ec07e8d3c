//! How often somebody may do something. All limits are here, and whoever is free of them is free of all.
//!
//! Everybody who is limited has an allowance for each limit, which is used up by what they do and grows
//! again with time (the generic cell rate algorithm). It is kept in memory: a restart gives it back.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use myelin_env::{Clock, Moment};
pub use myelin_storage::rate_limit_overrides::Override;
use myelin_storage::{Priority, rate_limit_overrides};
use ruma::{OwnedServerName, OwnedUserId, UserId};

use crate::{LimitExceeded, UserError, Users};

/// So many at once, and then so many a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How much there is when nothing was used for long. Not 0.
    pub burst: u32,
    /// How fast it grows again. Not 0.
    pub per_minute: u32,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Events and whatever else others are told of, by user.
    Messages,
    /// Joins and knocks, by user.
    Joins,
    /// Joins and knocks for which other servers are asked, by user.
    RemoteJoins,
    /// Invites, by who invites.
    Invites,
    /// Searches for messages and users, by user.
    Searches,
    /// New accounts, by address.
    Registrations,
    /// Logins, by address.
    Logins,
    /// Names and tokens that are looked up before anybody is known, by address.
    Lookups,
    /// Passwords that were wrong, by account.
    WrongPasswords,
    /// Requests of another server.
    Federation,
}

/// The operator's decision about each limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Of [`Limit::Messages`].
    pub messages: Quota,
    /// Of [`Limit::Joins`].
    pub joins: Quota,
    /// Of [`Limit::RemoteJoins`].
    pub remote_joins: Quota,
    /// Of [`Limit::Invites`].
    pub invites: Quota,
    /// Of [`Limit::Searches`].
    pub searches: Quota,
    /// Of [`Limit::Registrations`].
    pub registrations: Quota,
    /// Of [`Limit::Logins`].
    pub logins: Quota,
    /// Of [`Limit::Lookups`].
    pub lookups: Quota,
    /// Of [`Limit::WrongPasswords`].
    pub wrong_passwords: Quota,
    /// Of [`Limit::Federation`].
    pub federation: Quota,
}

impl Quotas {
    fn of(&self, limit: Limit) -> Quota {
        match limit {
            Limit::Messages => self.messages,
            Limit::Joins => self.joins,
            Limit::RemoteJoins => self.remote_joins,
            Limit::Invites => self.invites,
            Limit::Searches => self.searches,
            Limit::Registrations => self.registrations,
            Limit::Logins => self.logins,
            Limit::Lookups => self.lookups,
            Limit::WrongPasswords => self.wrong_passwords,
            Limit::Federation => self.federation,
        }
    }
}

/// Who is limited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A user of this server, or whoever claims to be.
    User(OwnedUserId),
    /// Whoever asks from an address. What belongs to one IPv6 network of 64 bits counts as one.
    Address(IpAddr),
    /// Another server.
    Server(OwnedServerName),
}

impl Who {
    /// Whoever asks from an address.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 => v4,
        })
    }
}

/// When so many allowances are kept, those that are whole again are forgotten.
const FIRST_SWEEP: usize = 10_000;

/// More are not kept. Who has so many addresses is not held back by limits.
const MOST: usize = 1_000_000;

/// The limits of a server. Without quotas nothing is limited.
#[derive(Debug)]
pub struct RateLimits {
    clock: Clock,
    quotas: Option<Quotas>,
    overrides: RwLock<HashMap<OwnedUserId, Override>>,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    /// When each allowance will be whole again.
    whole_at: HashMap<(Limit, Who), Moment>,
    sweep_at: usize,
}

impl RateLimits {
    pub(crate) fn new(
        clock: Clock,
        quotas: Option<Quotas>,
        overrides: HashMap<OwnedUserId, Override>,
    ) -> Self {
        Self {
            clock,
            quotas,
            overrides: RwLock::new(overrides),
            used: Mutex::new(Used {
                whole_at: HashMap::new(),
                sweep_at: FIRST_SWEEP,
            }),
        }
    }

    /// Uses up part of an allowance. What would never be allowed counts as much as all of it.
    ///
    /// # Errors
    /// [`LimitExceeded`] if there is not enough left; then nothing is used up.
    pub fn take(&self, limit: Limit, who: Who, actions: u32) -> Result<(), LimitExceeded> {
        self.with(limit, who, actions, true)
    }

    /// Whether there is something left of an allowance. Uses nothing up.
    ///
    /// # Errors
    /// [`LimitExceeded`] if there is not.
    pub fn check(&self, limit: Limit, who: Who) -> Result<(), LimitExceeded> {
        self.with(limit, who, 1, false)
    }

    /// What counts for somebody; none: anything goes.
    fn quota(&self, limit: Limit, who: &Who) -> Option<Quota> {
        let usual = self.quotas.as_ref()?.of(limit);
        // Passwords are tried by whoever claims to be a user.
        let Who::User(user) = who else {
            return Some(usual);
        };
        if limit == Limit::WrongPasswords {
            return Some(usual);
        }
        match self.override_of(user) {
            Some(instead) if instead.messages_per_second == 0 => None,
            Some(instead) if limit == Limit::Messages => Some(Quota {
                burst: instead.burst_count.max(1),
                per_minute: instead.messages_per_second.saturating_mul(60),
            }),
            _ => Some(usual),
        }
    }

    fn override_of(&self, user: &UserId) -> Option<Override> {
        let overrides = self
            .overrides
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        overrides.get(user).copied()
    }

    fn with(&self, limit: Limit, who: Who, actions: u32, uses: bool) -> Result<(), LimitExceeded> {
        let Some(Quota { burst, per_minute }) = self.quota(limit, &who) else {
            return Ok(());
        };
        let each = Duration::from_secs(60) / per_minute;
        let now = self.clock.instant();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (limit, who);
        // In the past, if nothing was used for long.
        let whole_at = used.whole_at.get(&key).copied().unwrap_or(now).max(now);
        let then = whole_at + each * actions.min(burst);
        let missing = then.since(now + each * burst);
        if !missing.is_zero() {
            return Err(LimitExceeded {
                retry_after: missing,
            });
        }
        if uses {
            used.whole_at.insert(key, then);
            used.sweep(now);
        }
        Ok(())
    }
}

impl Users {
    /// What a user of this server may do instead of what everybody may.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn rate_limit_override(&self, user: &UserId) -> Result<Option<Override>, UserError> {
        self.account_details(user).await?;
        Ok(self.rate_limits().override_of(user))
    }

    /// Lets a user do that instead of what everybody may, in all limits at once; none: the same as everybody.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn set_rate_limit_override(
        &self,
        user: &UserId,
        instead: Option<Override>,
    ) -> Result<(), UserError> {
        self.account_details(user).await?;
        let owner = user.to_owned();
        let set = self
            .database()
            .write("rate limit", Priority::Interactive, move |tx| {
                Box::pin(async move { rate_limit_overrides::set(tx, &owner, instead).await })
            });
        set.await.map_err(UserError::Storage)?;
        let mut overrides = self
            .rate_limits()
            .overrides
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match instead {
            Some(instead) => overrides.insert(user.to_owned(), instead),
            None => overrides.remove(user),
        };
        Ok(())
    }
}

impl Used {
    /// Forgets what is whole again, when there is much; seldom enough to cost nothing.
    fn sweep(&mut self, now: Moment) {
        if self.whole_at.len() < self.sweep_at {
            return;
        }
        self.whole_at.retain(|_, whole_at| *whole_at > now);
        if self.whole_at.len() > MOST {
            self.whole_at.clear();
        }
        self.sweep_at = (2 * self.whole_at.len()).max(FIRST_SWEEP);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::IpAddr, time::Duration};

    use myelin_env::Clock;
    use ruma::user_id;

    use super::{FIRST_SWEEP, Limit, LimitExceeded, Quota, Quotas, RateLimits, Who};

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(clock: &Clock) -> RateLimits {
        let of = |burst, per_minute| Quota { burst, per_minute };
        let quotas = Quotas {
            messages: of(3, 60),
            joins: of(1, 1),
            remote_joins: of(1, 1),
            invites: of(10, 6),
            searches: of(1, 60),
            registrations: of(2, 1),
            logins: of(1, 60),
            lookups: of(1, 60),
            wrong_passwords: of(1, 60),
            federation: of(1, 60),
        };
        RateLimits::new(clock.clone(), Some(quotas), HashMap::new())
    }

    fn alice() -> Who {
        Who::User(user_id!("@alice:x.example").to_owned())
    }

    fn late(seconds: u32) -> Result<(), LimitExceeded> {
        Err(LimitExceeded {
            retry_after: SECOND * seconds,
        })
    }

    #[test]
    fn an_allowance_is_used_up_and_grows_again_as_far_as_it_goes() {
        let clock = Clock::manual(0);
        let limits = limits(&clock);
        let take = || limits.take(Limit::Messages, alice(), 1);
        for round in 0..2 {
            assert_eq!([take(), take(), take()], [Ok(()); 3], "{round}");
            assert_eq!(take(), late(1));
            // What was refused used nothing up.
            assert_eq!(take(), late(1));
            clock.advance(SECOND);
            assert_eq!(take(), Ok(()));
            assert_eq!(take(), late(1));
            clock.advance(SECOND * 1_000);
        }
    }

    #[test]
    fn several_at_once_count_as_several_and_too_many_as_all() {
        let clock = Clock::manual(0);
        let limits = limits(&clock);
        let take = |actions| limits.take(Limit::Invites, alice(), actions);
        assert_eq!(take(8), Ok(()));
        assert_eq!(take(4), late(20));
        assert_eq!(take(0), Ok(()));
        assert_eq!(take(2), Ok(()));
        clock.advance(SECOND * 99);
        assert_eq!(take(1_000), late(1));
        clock.advance(SECOND);
        assert_eq!(take(1_000), Ok(()));
    }

    #[test]
    fn a_check_uses_nothing_up() {
        let clock = Clock::manual(0);
        let limits = limits(&clock);
        let check = || limits.check(Limit::WrongPasswords, alice());
        assert_eq!([check(), check()], [Ok(()); 2]);
        limits.take(Limit::WrongPasswords, alice(), 1).unwrap();
        assert_eq!(check(), late(1));
    }

    #[test]
    fn limits_and_those_who_are_limited_do_not_affect_each_other() {
        let clock = Clock::manual(0);
        let limits = limits(&clock);
        let bob = Who::User(user_id!("@bob:x.example").to_owned());
        assert_eq!(limits.take(Limit::Joins, alice(), 1), Ok(()));
        assert_eq!(limits.take(Limit::Joins, alice(), 1), late(60));
        assert_eq!(limits.take(Limit::Joins, bob, 1), Ok(()));
        assert_eq!(limits.take(Limit::Logins, alice(), 1), Ok(()));
    }

    #[test]
    fn an_ipv6_network_and_an_address_in_its_ipv6_form_count_as_one() {
        let at = |address: &str| Who::at(address.parse::<IpAddr>().unwrap());
        assert_eq!(at("2001:db8:1:2::5"), at("2001:db8:1:2:ffff::1"));
        assert_ne!(at("2001:db8:1:2::5"), at("2001:db8:1:3::5"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.2"), at("192.0.2.1"));
    }

    #[test]
    fn allowances_that_are_whole_again_are_forgotten() {
        let clock = Clock::manual(0);
        let limits = limits(&clock);
        for number in 0..2 * FIRST_SWEEP as u32 {
            let address = Who::at(IpAddr::from(number.to_be_bytes()));
            limits.take(Limit::Logins, address, 1).unwrap();
            clock.advance(Duration::from_millis(1));
        }
        let kept = limits.used.lock().unwrap().whole_at.len();
        assert!((1_000..=FIRST_SWEEP).contains(&kept), "{kept}");
    }
}
