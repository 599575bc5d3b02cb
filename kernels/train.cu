// The kernels of training, one translation unit: `build.rs` compiles it under `train-cuda`,
// `src/train/ops/cuda.rs` checks the shapes and launches. The theme files lie beside it; forward
// and backward of an operation stand together.
#include "attend_backward.cuh"
#include "head.cuh"
#include "mlp.cuh"
#include "norm.cuh"
#include "optimiser.cuh"
#include "rotate.cuh"
