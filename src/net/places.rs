//! Places for listeners: so many in the house, and so many for one address.

use crate::telemetry::{NetTelemetry, Telemetry};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All places of the house.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    max: usize,
    max_per_address: usize,
    /// How many each address has, of those that have any.
    taken: Mutex<HashMap<IpAddr, usize>>,
    telemetry: Arc<Telemetry>,
}

impl Places {
    pub(super) fn new(max: usize, max_per_address: usize, telemetry: Arc<Telemetry>) -> Self {
        Self {
            free: Arc::new(Semaphore::new(max)),
            max,
            max_per_address,
            taken: Mutex::default(),
            telemetry,
        }
    }

    /// A place for somebody at `peer`, or what there are no more of. This machine's own address is
    /// not counted: behind a proxy everybody has it.
    pub(super) fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Place, String> {
        let net = &self.telemetry.net;
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            net.refused.add(1);
            return Err(format!("all {} places for listeners", self.max));
        };
        let address = peer.map(|peer| peer.to_canonical());
        let address = address.filter(|address| !address.is_loopback());
        if let Some(address) = address {
            let mut taken = self.taken();
            let n = taken.entry(address).or_default();
            if *n >= self.max_per_address {
                net.refused.add(1);
                let most = self.max_per_address;
                return Err(format!("all {most} places for listeners of one address"));
            }
            *n += 1;
        }
        net.listeners.add(1);
        net.listeners_total.add(1);
        Ok(Place {
            places: self.clone(),
            address,
            _permit: permit,
        })
    }

    /// Resolves when nobody is there any more.
    pub(super) async fn emptied(&self) {
        // An error means that the house is closed, which comes to the same.
        let _ = self.free.acquire_many(self.max as u32).await;
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Counts are whole whoever panicked.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener's place in the house, free again when dropped, however the connection ended.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(super) fn telemetry(&self) -> &NetTelemetry {
        &self.places.telemetry.net
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.telemetry.net.listeners.sub(1);
        let Some(address) = self.address else {
            return;
        };
        let mut taken = self.places.taken();
        if let Some(n) = taken.get_mut(&address) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_share_and_this_machine_as_much_as_there_is() {
        let places = Arc::new(Places::new(5, 2, Arc::default()));
        let far: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let mapped: Option<IpAddr> = Some("::ffff:10.0.0.1".parse().unwrap());
        let (first, _second) = (places.take(far).unwrap(), places.take(mapped).unwrap());
        let why = places.take(far).unwrap_err();
        assert_eq!(why, "all 2 places for listeners of one address");
        drop(first);
        let _again = places.take(far).unwrap();
        let here: Option<IpAddr> = Some([127, 0, 0, 1].into());
        let _own: Vec<Place> = (0..3).map(|_| places.take(here).unwrap()).collect();
        let why = places.take(here).unwrap_err();
        assert_eq!(why, "all 5 places for listeners");
        assert_eq!(places.telemetry.net.refused.get(), 2);
        assert_eq!(places.telemetry.net.listeners.get(), 5);
        drop(_own);
        assert_eq!(places.taken().len(), 1, "who has left is forgotten");
    }
}
