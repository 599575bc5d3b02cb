//! Places for listeners: so many in the house, so many for one address, so many for one token.

use crate::access::TokenId;
use crate::telemetry::{NetTelemetry, Telemetry};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All places of the house.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    limits: Limits,
    /// How many each has, of those that have any.
    taken: Mutex<HashMap<Whose, usize>>,
    telemetry: Arc<Telemetry>,
}

/// How many places there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_all: usize,
    pub(super) per_address: usize,
    pub(super) per_token: usize,
}

/// By what somebody's places are counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Who {
    /// None for this machine's own programs, of which there may be as many as there are places.
    pub(super) address: Option<IpAddr>,
    /// The one that let them in, or had signed the link that did.
    pub(super) token: Option<TokenId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Address(IpAddr),
    Token(TokenId),
}

impl Who {
    fn counted(self) -> impl Iterator<Item = Whose> {
        let address = self.address.map(household).map(Whose::Address);
        address.into_iter().chain(self.token.map(Whose::Token))
    }
}

/// One address for all that one has: of IPv6 a house gets 64 bits to itself.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Places {
    pub(super) fn new(limits: Limits, telemetry: Arc<Telemetry>) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limits.in_all)),
            limits,
            taken: Mutex::default(),
            telemetry,
        }
    }

    /// A place for somebody, or what there are no more of.
    pub(super) fn take(self: &Arc<Self>, who: Who) -> Result<Place, String> {
        let net = &self.telemetry.net;
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            net.refused.add(1);
            return Err(format!("all {} places for listeners", self.limits.in_all));
        };
        let share = self.share(who)?;
        net.listeners.add(1);
        net.listeners_total.add(1);
        Ok(Place {
            share,
            _permit: permit,
        })
    }

    /// What counts for somebody's address and token, without a place among the listeners.
    pub(super) fn share(self: &Arc<Self>, who: Who) -> Result<Share, String> {
        let mut taken = self.taken();
        for whose in who.counted() {
            let (most, what) = match whose {
                Whose::Address(_) => (self.limits.per_address, "address"),
                Whose::Token(_) => (self.limits.per_token, "token"),
            };
            if taken.get(&whose).is_some_and(|n| *n >= most) {
                self.telemetry.net.refused.add(1);
                return Err(format!("all {most} places of one {what}"));
            }
        }
        for whose in who.counted() {
            *taken.entry(whose).or_default() += 1;
        }
        drop(taken);
        Ok(Share {
            places: self.clone(),
            who,
        })
    }

    /// Resolves when nobody is there any more.
    pub(super) async fn emptied(&self) {
        // An error means that the house is closed, which comes to the same.
        let _ = self.free.acquire_many(self.limits.in_all as u32).await;
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Whose, usize>> {
        // Counts are whole whoever panicked.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those that an address and a token may have, free again when dropped.
#[derive(Debug)]
pub(super) struct Share {
    places: Arc<Places>,
    who: Who,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        for whose in self.who.counted() {
            if let Some(n) = taken.get_mut(&whose) {
                *n -= 1;
                if *n == 0 {
                    taken.remove(&whose);
                }
            }
        }
    }
}

/// A listener's place in the house, free again when dropped, however the connection ended.
#[derive(Debug)]
pub(super) struct Place {
    share: Share,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(super) fn telemetry(&self) -> &NetTelemetry {
        &self.share.places.telemetry.net
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.telemetry().listeners.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Arc<Places> {
        let limits = Limits {
            in_all: 5,
            per_address: 2,
            per_token: 3,
        };
        Arc::new(Places::new(limits, Arc::default()))
    }

    fn at(address: &str) -> Who {
        let address = Some(address.parse().unwrap());
        Who {
            address,
            token: None,
        }
    }

    #[test]
    fn an_address_gets_its_share_and_this_machine_as_much_as_there_is() {
        let places = places();
        let (far, mapped) = (at("10.0.0.1"), at("::ffff:10.0.0.1"));
        let (first, _second) = (places.take(far).unwrap(), places.take(mapped).unwrap());
        let why = places.take(far).unwrap_err();
        assert_eq!(why, "all 2 places of one address");
        drop(first);
        let _again = places.take(far).unwrap();
        let here = Who::default();
        let own: Vec<Place> = (0..3).map(|_| places.take(here).unwrap()).collect();
        let why = places.take(here).unwrap_err();
        assert_eq!(why, "all 5 places for listeners");
        assert_eq!(places.telemetry.net.refused.get(), 2);
        assert_eq!(places.telemetry.net.listeners.get(), 5);
        drop(own);
        assert_eq!(places.taken().len(), 1, "who has left is forgotten");
    }

    #[test]
    fn a_house_has_one_share_whatever_its_addresses() {
        let places = places();
        let _first = places.take(at("2001:db8::1")).unwrap();
        let _second = places.take(at("2001:db8::2:3")).unwrap();
        assert!(places.take(at("2001:db8::4")).is_err());
        assert!(places.take(at("2001:db8:0:1::1")).is_ok(), "next door");
    }

    #[test]
    fn a_token_gets_its_share_wherever_it_is_shown_sessions_among_it() {
        let places = places();
        let with = |address: &str, token: &str| Who {
            token: Some(TokenId::of(token)),
            ..at(address)
        };
        let listener = places.take(with("10.0.0.1", "ours")).unwrap();
        let _session = places.share(with("127.0.0.1", "ours")).unwrap();
        let _other = places.take(with("10.0.0.2", "ours")).unwrap();
        let why = places.take(with("10.0.0.3", "ours")).unwrap_err();
        assert_eq!(why, "all 3 places of one token");
        assert!(places.share(with("10.0.0.3", "ours")).is_err());
        assert!(places.take(with("10.0.0.3", "theirs")).is_ok());
        assert_eq!(places.telemetry.net.listeners.get(), 2);
        drop(listener);
        // Who was refused for the address has taken nothing of the token's.
        let _one = places.take(with("10.0.0.9", "theirs")).unwrap();
        let _two = places.take(at("10.0.0.9")).unwrap();
        assert!(places.take(with("10.0.0.9", "ours")).is_err());
        assert!(places.take(with("10.0.0.1", "ours")).is_ok());
    }
}
