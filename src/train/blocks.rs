//! The network's blocks: each a node of candle's autograd whose forward and backward passes are
//! chains of `ops` and matrix products.
//!
//! candle would record every operation, and add every gradient to zeros before it hands it on; a
//! block keeps what its backward pass needs and hands on two gradients, that of the residual
//! stream and that of its flat parameter.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor,
    bail,
};

use super::ops::{self, Attention, NormConv, Sight, Turn};
use crate::model::V;

/// What a pass has computed before candle asks for it.
struct Ready {
    storage: Mutex<Option<Storage>>,
    shape: Shape,
}

impl Ready {
    fn new(storage: Storage, shape: impl Into<Shape>) -> Self {
        Self {
            storage: Mutex::new(Some(storage)),
            shape: shape.into(),
        }
    }

    fn take(&self) -> Result<Storage> {
        let taken = self.storage.lock().ok().and_then(|mut held| held.take());
        taken.ok_or_else(|| candle_core::Error::Msg("a block's result is taken once".into()))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            Storage::Cpu(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("a block's result lies on another device"),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            Storage::Cuda(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("a block's result lies on another device"),
        }
    }
}

/// The forward half of a `CustomOp2` that is `Ready`.
macro_rules! ready {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            self.ready.cpu()
        }

        fn cuda_fwd(
            &self,
            _: &CudaStorage,
            _: &Layout,
            _: &CudaStorage,
            _: &Layout,
        ) -> Result<(CudaStorage, Shape)> {
            self.ready.cuda()
        }
    };
}

/// A piece of a flat parameter as a matrix or vector.
fn view(flat: &Tensor, start: usize, shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().product();
    flat.narrow(0, start, n)?.reshape(shape)
}

/// What a tensor holds, by itself.
fn copy(x: &Tensor) -> Result<Storage> {
    let (storage, layout) = x.storage_and_layout();
    storage.try_clone(layout)
}

/// The gradients of a parameter's pieces, in order, as that of the parameter.
fn flat(pieces: &[Tensor]) -> Result<Tensor> {
    let flat = pieces
        .iter()
        .map(|piece| piece.flatten_all()?.to_dtype(DType::F32))
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
}

/// x `[N, D]` f32 with what attention adds to it.
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    pub d_model: usize,
    pub conv_width: usize,
    pub eps: f32,
    pub attention: Attention,
    /// `[rope_period, K]`: see [`ops::rotate`].
    pub angles: Tensor,
}

struct AttentionPass {
    block: AttentionBlock,
    ready: Ready,
    weights: AttentionWeights,
    c: Tensor,
    /// With the sight that the pass has found.
    attention: Attention,
    /// What keys were multiplied by, where they are queries.
    scales: Option<Tensor>,
    qkv: Tensor,
    attended: Tensor,
    lse: Tensor,
}

/// Views of an attention block's parameter, matrices as activations.
struct AttentionWeights {
    gain: Tensor,
    conv: Tensor,
    qkv: Tensor,
    o: Tensor,
}

impl AttentionBlock {
    /// The block as a node between x and its parameter, and what comes next.
    pub fn forward(&self, x: &Tensor, parameter: &Tensor) -> Result<Tensor> {
        let pass = self.run(&x.detach(), &parameter.detach())?;
        x.apply_op2(parameter, pass)
    }

    fn weights(&self, parameter: &Tensor) -> Result<AttentionWeights> {
        let (d, w, width) = (self.d_model, self.conv_width, self.attention.qkv_width());
        let values = self.attention.n_heads * self.attention.head_size;
        let active = parameter.to_dtype(ops::activation_type(parameter.device()))?;
        let matrices = d + d * w;
        let kept = match self.shares_queries() {
            true => width - self.keys(),
            false => width,
        };
        let qkv = view(&active, matrices, &[kept, d])?;
        Ok(AttentionWeights {
            gain: view(parameter, 0, &[d])?,
            conv: view(parameter, d, &[d, w])?,
            qkv: match self.shares_queries() {
                true => self.with_keys(&qkv)?,
                false => qkv,
            },
            o: view(&active, matrices + kept * d, &[d, values])?,
        })
    }

    /// Whether keys are the mean of the queries that share them.
    fn shares_queries(&self) -> bool {
        matches!(self.attention.sight, Sight::Hashed(_))
    }

    /// Rows of `qkv` that are keys.
    fn keys(&self) -> usize {
        self.attention.n_kv_heads * self.attention.head_size
    }

    /// The rows of queries `[G, H/G, K·D]`.
    fn by_group(&self, queries: &Tensor) -> Result<Tensor> {
        let a = &self.attention;
        let shape = [
            a.n_kv_heads,
            a.n_heads / a.n_kv_heads,
            a.head_size * self.d_model,
        ];
        queries.reshape(&shape)
    }

    /// Queries, keys and values, of queries and values.
    fn with_keys(&self, qv: &Tensor) -> Result<Tensor> {
        let (d, keys) = (self.d_model, self.keys());
        let n_queries = qv.dim(0)? - keys;
        let queries = qv.narrow(0, 0, n_queries)?;
        let means = self.by_group(&queries)?.mean(1)?.reshape(&[keys, d])?;
        Tensor::cat(&[queries, means, qv.narrow(0, n_queries, keys)?], 0)
    }

    /// The gradient of queries and values, of that of queries, keys and values.
    fn without_keys(&self, d_qkv: &Tensor) -> Result<Tensor> {
        let (d, keys, a) = (self.d_model, self.keys(), &self.attention);
        let n_queries = d_qkv.dim(0)? - 2 * keys;
        let d_means = d_qkv.narrow(0, n_queries, keys)?;
        let each = (d_means * (a.n_kv_heads as f64 / a.n_heads as f64))?;
        let each = each.reshape(&[a.n_kv_heads, 1, a.head_size * d])?;
        let d_queries = self.by_group(&d_qkv.narrow(0, 0, n_queries)?)?;
        let d_queries = d_queries.broadcast_add(&each)?.reshape(&[n_queries, d])?;
        Tensor::cat(&[d_queries, d_qkv.narrow(0, n_queries + keys, keys)?], 0)
    }

    fn norm<'a>(&self, weights: &'a AttentionWeights) -> NormConv<'a> {
        NormConv {
            gain: &weights.gain,
            conv: Some(&weights.conv),
            window: self.attention.window,
            eps: self.eps,
        }
    }

    fn run(&self, x: &Tensor, parameter: &Tensor) -> Result<AttentionPass> {
        let weights = self.weights(parameter)?;
        let c = ops::norm_conv(x, &self.norm(&weights))?;
        let qkv = c.matmul(&weights.qkv.t()?)?;
        let attention = Attention {
            sight: ops::sort(&qkv, &self.attention)?,
            ..self.attention.clone()
        };
        let scales = match self.shares_queries() {
            true => Some(ops::norm_keys(&qkv, &attention, self.eps)?),
            false => None,
        };
        ops::rotate(&qkv, &attention, &self.angles, Turn::Forward)?;
        let (attended, lse) = ops::attend(&qkv, &attention)?;
        let branch = attended.matmul(&weights.o.t()?)?;
        Ok(AttentionPass {
            ready: Ready::new(ops::add_residual(x, &branch, None)?, x.shape()),
            block: self.clone(),
            weights,
            c,
            attention,
            scales,
            qkv,
            attended,
            lse,
        })
    }
}

impl CustomOp2 for AttentionPass {
    ready!("attention-block");

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        d: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a, w) = (&self.attention, &self.weights);
        let (d_branch, _) = ops::branch_gradient(d)?;
        let d_o = d_branch.t()?.matmul(&self.attended)?;
        let d_attended = d_branch.matmul(&w.o)?;
        let d_qkv = ops::attend_backward(&self.qkv, a, &self.attended, &self.lse, &d_attended)?;
        if let Some(scales) = &self.scales {
            ops::norm_keys_backward(&self.qkv, a, scales, &d_qkv)?;
        }
        ops::rotate(&d_qkv, a, &self.block.angles, Turn::Back)?;
        let d_weight = d_qkv.t()?.matmul(&self.c)?;
        let d_weight = match self.scales {
            Some(_) => self.block.without_keys(&d_weight)?,
            None => d_weight,
        };
        let d_c = d_qkv.matmul(&w.qkv)?;
        let norm = self.block.norm(w);
        let (d_x, d_gain, d_conv) = ops::norm_conv_backward(&x.detach(), &norm, &d_c, d)?;
        let d_conv = d_conv.unwrap_or(d_gain.zeros_like()?);
        let d_parameter = flat(&[d_gain, d_conv, d_weight, d_o])?;
        Ok((Some(d_x), Some(d_parameter)))
    }
}

/// x `[N, D]` f32 with what the MLP adds to it.
#[derive(Clone, Debug)]
pub struct MlpBlock {
    pub d_model: usize,
    pub width: usize,
    pub eps: f32,
}

struct MlpPass {
    block: MlpBlock,
    ready: Ready,
    weights: MlpWeights,
    m: Tensor,
    u: Tensor,
}

/// Views of an MLP block's parameter, matrices as activations.
struct MlpWeights {
    gain: Tensor,
    up_bias: Tensor,
    down_bias: Tensor,
    up: Tensor,
    down: Tensor,
}

impl MlpBlock {
    /// The block as a node between x and its parameter, and what comes next.
    pub fn forward(&self, x: &Tensor, parameter: &Tensor) -> Result<Tensor> {
        let pass = self.run(&x.detach(), &parameter.detach())?;
        x.apply_op2(parameter, pass)
    }

    fn weights(&self, parameter: &Tensor) -> Result<MlpWeights> {
        let (d, f) = (self.d_model, self.width);
        let active = parameter.to_dtype(ops::activation_type(parameter.device()))?;
        let matrices = d + f + d;
        Ok(MlpWeights {
            gain: view(parameter, 0, &[d])?,
            up_bias: view(parameter, d, &[f])?,
            down_bias: view(parameter, d + f, &[d])?,
            up: view(&active, matrices, &[f, d])?,
            down: view(&active, matrices + f * d, &[d, f])?,
        })
    }

    fn norm<'a>(&self, gain: &'a Tensor) -> NormConv<'a> {
        NormConv {
            gain,
            conv: None,
            window: 1,
            eps: self.eps,
        }
    }

    fn run(&self, x: &Tensor, parameter: &Tensor) -> Result<MlpPass> {
        let weights = self.weights(parameter)?;
        let m = ops::norm_conv(x, &self.norm(&weights.gain))?;
        let u = m.matmul(&weights.up.t()?)?;
        let branch = ops::gelu(&u, &weights.up_bias)?.matmul(&weights.down.t()?)?;
        let sum = ops::add_residual(x, &branch, Some(&weights.down_bias))?;
        Ok(MlpPass {
            ready: Ready::new(sum, x.shape()),
            block: self.clone(),
            weights,
            m,
            u,
        })
    }
}

impl CustomOp2 for MlpPass {
    ready!("mlp-block");

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        d: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let w = &self.weights;
        let (d_branch, d_down_bias) = ops::branch_gradient(d)?;
        let d_g = d_branch.matmul(&w.down)?;
        let (d_u, g, d_up_bias) = ops::gelu_backward(&self.u, &w.up_bias, &d_g)?;
        let d_down = d_branch.t()?.matmul(&g)?;
        let d_up = d_u.t()?.matmul(&self.m)?;
        let d_m = d_u.matmul(&w.up)?;
        let norm = self.block.norm(&w.gain);
        let (d_x, d_gain, _) = ops::norm_conv_backward(&x.detach(), &norm, &d_m, d)?;
        let d_parameter = flat(&[d_gain, d_up_bias, d_down_bias, d_up, d_down])?;
        Ok((Some(d_x), Some(d_parameter)))
    }
}

/// What the network hears becomes its residual stream: the row of each code in the table, and what
/// a matrix makes of the predictor's waves; both are the parameter.
#[derive(Debug)]
pub struct EmbedBlock {
    pub d_model: usize,
    /// `[N]` u8
    pub codes: Tensor,
    /// `[N, predictor_width]`, as activations; none without a predictor.
    pub waves: Option<Tensor>,
}

struct EmbedPass {
    block: EmbedBlock,
    ready: Ready,
}

impl EmbedBlock {
    /// x `[N, D]` f32.
    pub fn forward(self, parameter: &Tensor) -> Result<Tensor> {
        let d = self.d_model;
        let flat = parameter.detach();
        let x = ops::embed(&self.codes, &view(&flat, 0, &[V, d])?)?;
        let sum = match &self.waves {
            None => copy(&x)?,
            Some(waves) => {
                let matrix = view(&flat, V * d, &[d, waves.dim(1)?])?;
                let expected = waves.matmul(&matrix.to_dtype(waves.dtype())?.t()?)?;
                ops::add_residual(&x, &expected, None)?
            }
        };
        parameter.apply_op1(EmbedPass {
            ready: Ready::new(sum, x.shape()),
            block: self,
        })
    }
}

impl CustomOp1 for EmbedPass {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.ready.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.ready.cuda()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, d: &Tensor) -> Result<Option<Tensor>> {
        let mut pieces = vec![ops::embed_backward(&self.block.codes, d)?];
        if let Some(waves) = &self.block.waves {
            let (d_heard, _) = ops::branch_gradient(d)?;
            pieces.push(d_heard.t()?.matmul(waves)?);
        }
        Ok(Some(flat(&pieces)?))
    }
}

/// The last norm, the logits, and how little each target was expected.
#[derive(Clone, Debug)]
pub struct HeadBlock {
    pub d_model: usize,
    pub eps: f32,
}

struct HeadPass {
    block: HeadBlock,
    ready: Ready,
    gain: Tensor,
    head: Tensor,
    n: Tensor,
    d_logits: Tensor,
    d_bias: Tensor,
}

impl HeadBlock {
    /// The mean of −ln p over targets `[N]` u8, a number.
    pub fn loss(&self, x: &Tensor, parameter: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (surprise, pass) = self.run(&x.detach(), &parameter.detach(), targets)?;
        let ready = Ready::new(copy(&surprise.mean_all()?)?, ());
        x.apply_op2(parameter, HeadPass { ready, ..pass })
    }

    /// −ln p of each target `[N]` f32; no graph.
    pub fn surprise(&self, x: &Tensor, parameter: &Tensor, targets: &Tensor) -> Result<Tensor> {
        Ok(self.run(&x.detach(), &parameter.detach(), targets)?.0)
    }

    /// The logits `[N, V]` f32; no graph.
    pub fn logits(&self, x: &Tensor, parameter: &Tensor) -> Result<Tensor> {
        let (gain, bias, head) = self.weights(&parameter.detach())?;
        let n = ops::norm_conv(&x.detach(), &self.norm(&gain))?;
        n.matmul(&head.t()?)?
            .to_dtype(DType::F32)?
            .broadcast_add(&bias)
    }

    fn norm<'a>(&self, gain: &'a Tensor) -> NormConv<'a> {
        NormConv {
            gain,
            conv: None,
            window: 1,
            eps: self.eps,
        }
    }

    /// Gain, bias and, as an activation, the matrix.
    fn weights(&self, parameter: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let d = self.d_model;
        let active = parameter.to_dtype(ops::activation_type(parameter.device()))?;
        Ok((
            view(parameter, 0, &[d])?,
            view(parameter, d, &[V])?,
            view(&active, d + V, &[V, d])?,
        ))
    }

    fn run(&self, x: &Tensor, parameter: &Tensor, targets: &Tensor) -> Result<(Tensor, HeadPass)> {
        let (gain, bias, head) = self.weights(parameter)?;
        let n = ops::norm_conv(x, &self.norm(&gain))?;
        let logits = n.matmul(&head.t()?)?;
        let (surprise, d_logits, d_bias) = ops::cross_entropy(&logits, &bias, targets)?;
        let pass = HeadPass {
            block: self.clone(),
            ready: Ready {
                storage: Mutex::new(None),
                shape: ().into(),
            },
            gain,
            head,
            n,
            d_logits,
            d_bias,
        };
        Ok((surprise, pass))
    }
}

impl CustomOp2 for HeadPass {
    ready!("head");

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        d: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let d_logits = self
            .d_logits
            .broadcast_mul(&d.to_dtype(self.d_logits.dtype())?)?;
        let d_bias = self.d_bias.broadcast_mul(d)?;
        let d_head = d_logits.t()?.matmul(&self.n)?;
        let d_n = d_logits.matmul(&self.head)?;
        let norm = self.block.norm(&self.gain);
        let (d_x, d_gain, _) =
            ops::norm_conv_backward(&x.detach(), &norm, &d_n, &x.detach().zeros_like()?)?;
        Ok((Some(d_x), Some(flat(&[d_gain, d_bias, d_head])?)))
    }
}
