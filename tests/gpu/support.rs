//! Tensors on both devices, and how they are compared.

use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Storage, Tensor};

/// Results rounded to bf16, or made of probabilities that were.
pub const ACTIVATION: f64 = 1e-2;
/// Results in f32, row by row.
pub const EXACT: f64 = 1e-4;
/// Results in f32 that add up many rows, in another order than the twin.
pub const SUM: f64 = 3e-4;

/// A tensor on both devices: what they hold is equal at the start.
pub struct Pair {
    pub cpu: Tensor,
    pub gpu: Tensor,
}

impl Pair {
    pub fn on(&self, gpu: bool) -> &Tensor {
        if gpu { &self.gpu } else { &self.cpu }
    }

    pub fn narrow(&self, start: usize, n: usize) -> Result<Self> {
        Ok(Self {
            cpu: self.cpu.narrow(0, start, n)?,
            gpu: self.gpu.narrow(0, start, n)?,
        })
    }
}

/// Both devices, and numbers drawn in a fixed order.
pub struct Bench {
    pub cpu: Device,
    gpu: Device,
    state: u64,
}

impl Bench {
    /// None, and a word about it, where there is no GPU.
    pub fn new() -> Option<Self> {
        match Device::new_cuda(0) {
            Ok(gpu) => Some(Self {
                cpu: Device::Cpu,
                gpu,
                state: 1,
            }),
            Err(e) => {
                println!("SKIPPED: the kernels were not tested; no GPU answers: {e}");
                None
            }
        }
    }

    /// Uniform in [0, 1): splitmix64.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }

    fn drawn(&mut self, shape: &[usize]) -> Result<Tensor> {
        let n = shape.iter().product();
        let normal = |b: &mut Self| {
            let (radius, angle) = (1.0 - b.uniform(), b.uniform());
            (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
        };
        let values: Vec<f32> = (0..n).map(|_| normal(self)).collect();
        Tensor::from_vec(values, shape, &self.cpu)
    }

    /// f32 on both.
    pub fn pair(&self, t: &Tensor) -> Result<Pair> {
        Ok(Pair {
            cpu: t.copy()?,
            gpu: t.to_device(&self.gpu)?,
        })
    }

    /// Rounded to bf16: as f32 on the CPU, as bf16 on the GPU.
    pub fn pair_active(&self, t: &Tensor) -> Result<Pair> {
        let rounded = t.to_dtype(DType::BF16)?;
        Ok(Pair {
            cpu: rounded.to_dtype(DType::F32)?,
            gpu: rounded.to_device(&self.gpu)?,
        })
    }

    pub fn normal(&mut self, shape: &[usize]) -> Result<Pair> {
        let t = self.drawn(shape)?;
        self.pair(&t)
    }

    pub fn active(&mut self, shape: &[usize]) -> Result<Pair> {
        let t = self.drawn(shape)?;
        self.pair_active(&t)
    }

    /// Some codes often, some never.
    pub fn codes(&mut self, n: usize) -> Result<Pair> {
        let codes: Vec<u8> = (0..n)
            .map(|_| (255.9 * self.uniform() * self.uniform()) as u8)
            .collect();
        self.pair(&Tensor::from_vec(codes, n, &self.cpu)?)
    }

    /// Leaves NaN where the pool is likely to put results of these sizes next, so that what a
    /// kernel forgets to write is noticed.
    pub fn poison(&self, results: &[(usize, DType)]) -> Result<()> {
        let nans = results
            .iter()
            .map(|(n, dtype)| Tensor::full(f32::NAN, *n, &self.gpu)?.to_dtype(*dtype))
            .collect::<Result<Vec<_>>>()?;
        drop(nans);
        Ok(())
    }

    /// Whether all elements are smaller than this.
    pub fn is_below(&self, t: &Tensor, limit: f32) -> Result<bool> {
        let t = t.to_dtype(DType::F32)?.to_device(&self.cpu)?;
        let values = t.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.iter().all(|v| v.abs() < limit))
    }

    /// Panics, with the case's name, where the results differ by more than `most`.
    pub fn check(&self, name: &str, want: &Tensor, got: &Tensor, most: f64) -> Result<()> {
        assert_eq!(want.dims(), got.dims(), "{name}");
        let flat = |t: &Tensor| -> Result<Vec<f32>> {
            let t = t.to_dtype(DType::F32)?.to_device(&self.cpu)?;
            t.flatten_all()?.to_vec1()
        };
        let (want, got) = (flat(want)?, flat(got)?);
        let (mut error, mut length) = (0.0f64, 0.0f64);
        let mut worst = (0.0f64, 0);
        for (i, (want, got)) in want.iter().zip(&got).enumerate() {
            let off = f64::from(got - want);
            error += off * off;
            length += f64::from(*want).powi(2);
            if !(off.abs() <= worst.0) {
                worst = (off.abs(), i);
            }
        }
        let relative = (error / length.max(f64::MIN_POSITIVE)).sqrt();
        assert!(
            // A number that is none must fail.
            relative < most || error == 0.0,
            "{name}: off by {relative:.2e} of the whole; most at {}: {} for {}",
            worst.1,
            got[worst.1],
            want[worst.1]
        );
        Ok(())
    }
}

/// A storage that an operation returned.
pub fn tensor(storage: Storage, shape: &[usize]) -> Tensor {
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}
