//! Mirrors of the structures that kernels take as parameters, field by field.

use candle_core::cuda::cudarc::driver::DeviceRepr;

use crate::train::ops::AdamW;

/// `NormBack` of `kernels/norm.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NormBack {
    pub x: u64,
    pub gain: u64,
    pub conv: u64,
    pub d_out: u64,
    pub past: u64,
    pub dx: u64,
    pub gain_partials: u64,
    pub conv_partials: u64,
    pub window: i32,
    pub tiles: i32,
    pub all_tiles: i32,
    pub rows: i32,
    pub d: i32,
    pub w: i32,
    pub tap0: i32,
    pub eps: f32,
}

/// `kGroups` of `kernels/rotate.cuh`.
pub const GROUPS: usize = 16;

/// `Turns` of `kernels/rotate.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Turns {
    pub of: [i32; GROUPS],
    pub queries: i32,
    pub per_group: i32,
}

/// `Lists` of `kernels/attend.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Lists {
    pub starts: u64,
    pub entries: u64,
    pub masks: u64,
}

/// `AttendSizes` of `kernels/attend.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AttendSizes {
    pub window: i32,
    pub stride: i32,
    pub reach: i32,
    pub heads: i32,
    pub groups: i32,
    pub tiles: i32,
    pub scale: f32,
    pub root: f32,
}

/// `AdamWTensors` of `kernels/optimiser.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AdamWTensors {
    pub value: u64,
    pub gradient: u64,
    pub first: u64,
    pub second: u64,
    pub average: u64,
    pub decayed: u64,
}

impl AdamWTensors {
    /// Whether all lie on 16 bytes.
    pub fn aligned(&self) -> bool {
        let all = self.value | self.gradient | self.first | self.second;
        (all | self.average | self.decayed).is_multiple_of(16)
    }
}

/// `AdamWStep` of `kernels/optimiser.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AdamWStep {
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    clip: f32,
    ema: f32,
    correction1: f32,
    correction2: f32,
}

impl AdamWStep {
    pub fn new(s: &AdamW) -> Self {
        // In f64: 1 − 0.999^1 in f32 has lost four digits.
        let correction = |beta: f32| {
            let kept = f64::from(beta).powf(s.iteration as f64);
            (1.0 / (1.0 - kept)) as f32
        };
        Self {
            lr: s.lr,
            beta1: s.beta1,
            beta2: s.beta2,
            eps: s.eps,
            decay: s.lr * s.decay,
            clip: s.clip,
            ema: s.ema,
            correction1: correction(s.beta1),
            correction2: correction(s.beta2),
        }
    }
}

// SAFETY: plain integers, addresses and floats in C's layout, the same as in the kernels' files.
unsafe impl DeviceRepr for NormBack {}
// SAFETY: as above.
unsafe impl DeviceRepr for Turns {}
// SAFETY: as above.
unsafe impl DeviceRepr for Lists {}
// SAFETY: as above.
unsafe impl DeviceRepr for AttendSizes {}
// SAFETY: as above.
unsafe impl DeviceRepr for AdamWTensors {}
// SAFETY: as above.
unsafe impl DeviceRepr for AdamWStep {}
