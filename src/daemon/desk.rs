//! Where controllers' wishes become commands to the pump.

use std::sync::{Mutex, PoisonError};

use crate::control::Controls;
use crate::model::DrawParams;
use crate::net::{Desk, Unchanged};
use crate::protocol::{Change, Changed, Draw};

/// The pump's controls, and how each station plays now.
#[derive(Debug)]
pub(super) struct PumpDesk {
    controls: Controls,
    present: Mutex<Vec<(u64, Draw)>>,
}

impl PumpDesk {
    /// Of stations that begin with these seeds and draws.
    pub fn new(controls: Controls, present: Vec<(u64, Draw)>) -> Self {
        Self {
            controls,
            present: Mutex::new(present),
        }
    }
}

impl Desk for PumpDesk {
    fn change(&self, station: usize, change: &Change) -> Result<Changed, Unchanged> {
        // Held to the end: the pump answers one caller at a time.
        let mut all = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let present = all.get_mut(station);
        let present = present.ok_or_else(|| Unchanged::Failed("no such station".into()))?;
        let (seed, draw) = change.apply(present.0, present.1);
        let params = params_of(&draw);
        params.check().map_err(Unchanged::Refused)?;
        let since = self.controls.retune(station, seed, params);
        let since = since.map_err(|error| Unchanged::Failed(error.to_string()))?;
        *present = (seed, draw);
        Ok(Changed { since, seed, draw })
    }
}

/// As the wire has it.
pub(super) fn draw_of(params: &DrawParams) -> Draw {
    let DrawParams {
        temperature,
        max_entropy,
        max_rise,
        leveling,
        top_p,
        min_p,
    } = *params;
    Draw {
        temperature,
        max_entropy,
        max_rise,
        leveling,
        top_p,
        min_p,
    }
}

fn params_of(draw: &Draw) -> DrawParams {
    let Draw {
        temperature,
        max_entropy,
        max_rise,
        leveling,
        top_p,
        min_p,
    } = *draw;
    DrawParams {
        temperature,
        max_entropy,
        max_rise,
        leveling,
        top_p,
        min_p,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_drawn_with_is_refused_and_changes_nothing() {
        let (controls, _inbox) = crate::control::channel(Vec::new());
        let usual = draw_of(&DrawParams::default());
        assert_eq!(params_of(&usual), DrawParams::default());
        let desk = PumpDesk::new(controls, vec![(7, usual)]);
        let wild = Change {
            temperature: Some(-1.0),
            ..Change::default()
        };
        let error = desk.change(0, &wild).unwrap_err();
        assert!(matches!(error, Unchanged::Refused(why) if why.contains("temperature is -1")));
        assert!(matches!(desk.change(1, &wild), Err(Unchanged::Failed(_))));
        assert_eq!(desk.present.lock().unwrap()[0], (7, usual));
    }
}
