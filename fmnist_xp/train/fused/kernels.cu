// An epoch in three kernels: `pass`, `weights`, `update`. source.py writes what stands in front: sizes and formulas.
// All products are m16n8k16 of the tensor cores. What one leaves in a warp's registers is, packed in pairs, what the
// next one takes (Dao et al., FlashAttention, 2022, do the same), so a warp carries its rows through all layers and
// back without leaving its registers; movmatrix transposes them for sums over the rows. Which column of the first layer
// is which k of a product is free, as long as its weights agree, so a lane reads 16 bytes at once.
// Layouts: NVIDIA, PTX ISA, "Matrix Fragments for mma.m16n8k16".

#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < (count); i++)
#define DOWN(i, count) _Pragma("unroll") for (int i = (count) - 1; i >= 0; i--)
#define MEMBER __device__ __forceinline__
#define INLINE static MEMBER
typedef unsigned int word;
INLINE word pack(float low, float high) {
  word pair;
  asm("cvt.rn." OPERAND "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// A lane's part of a piece of 16 rows and 16 columns: number i of 8 lies in row row_of(i) and column column_of(i).
INLINE int lane() { return threadIdx.x % 32; }
INLINE int row_of(int i) { return lane() / 4 + i / 2 % 2 * 8; }
INLINE int column_of(int i) { return lane() % 4 * 2 + i / 4 * 8 + i % 2; }
// What is left of a float32 once the bfloat16 before a term are taken off; three terms add up to it.
INLINE float term_of(float value, int term) {
  EACH(i, term) value -= __uint_as_float(pack(value, 0) << 16);
  return value;
}

struct Piece {
#if TERMS == 1
  word pairs[4];
  MEMBER void set(const float (&values)[8]) { EACH(i, 4) pairs[i] = pack(values[2 * i], values[2 * i + 1]); }
  MEMBER void operand(int, word (&taken)[4]) const { EACH(i, 4) taken[i] = pairs[i]; }
  MEMBER float at(int i) const {
    float value;
    asm("cvt.f32." OPERAND " %0, %1;" : "=f"(value) : "h"((unsigned short)(pairs[i / 2] >> i % 2 * 16)));
    return value;
  }
#else
  float values[8];
  MEMBER void set(const float (&given)[8]) { EACH(i, 8) values[i] = given[i]; }
  MEMBER void operand(int term, word (&taken)[4]) const {
    EACH(i, 4) taken[i] = pack(term_of(values[2 * i], term), term_of(values[2 * i + 1], term));
  }
  MEMBER float at(int i) const { return values[i]; }
#endif
};

// sum (16, 8) += a (16, 16) · b (16, 8)
INLINE void mma(float* sum, const word (&a)[4], word b0, word b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." OPERAND "." OPERAND ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
               "{%8, %9}, {%0, %1, %2, %3};" : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
INLINE void multiply(float (&sum)[8], const word (&a)[4], const uint4 b) {
  mma(sum, a, b.x, b.y), mma(sum + 4, a, b.z, b.w);
}
INLINE word transposed(word pairs) {
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pairs));
  return pairs;
}
// 2 · pixel − 255, which both formats have, of a byte of a word: 2²³ + pixel has the pixel's bits.
INLINE float odd_integer(word bytes, int at) {
  return fmaf(__uint_as_float(__byte_perm(bytes, 0x4B000000, 0x7440 + at)) - 8388608, 2, -255);
}

// sum += values · the `piece`th 16 columns of a layer's weights; what is smallest first, what is below rounding not.
template <int STEPS, int PIECES>
INLINE void product(float (&sum)[TILES][8], const Piece (&values)[TILES][STEPS], const uint4* weights, int piece) {
  EACH(step, STEPS) {
    uint4 b[TERMS];
    EACH(term, TERMS) b[term] = __ldg(weights + ((term * STEPS + step) * PIECES + piece) * 32 + lane());
    EACH(tile, TILES) DOWN(i, TERMS) {
      word a[4];
      values[tile][step].operand(i, a);
      DOWN(j, TERMS - i) multiply(sum[tile], a, b[j]);
    }
  }
}
struct Pass {
  const unsigned char *pixels, *labels;
  const float* parameters;
  const uint4* operands;
  uint4* gradients;  // in the first layer's sums
  float* partial;    // sums of all gradients but the first layer's weights'
  int rows, groups, first;  // the last is the first row of the warp's tiles
  bool again;  // whether the block had rows before
  double loss; int right, lowest, highest;
};

INLINE float bias(const Pass& pass, int layer, int column) {
  return column < width(layer) ? pass.parameters[biases_of(layer) + column] : 0;
}
// A hidden layer's output from its products.
template <int PIECES>
INLINE void activate(Piece (&outputs)[TILES][PIECES], float (&sum)[TILES][8], const Pass& pass, int layer, int piece,
                     float scale) {
  EACH(tile, TILES) {
    EACH(i, 8) sum[tile][i] = relu(sum[tile][i] * scale + bias(pass, layer, piece * 16 + column_of(i)));
    outputs[tile][piece].set(sum[tile]);
  }
}

INLINE void read(uint4 (&bytes)[TILES][2], const Pass& pass, int slice) {
  const int column = slice * 64 + lane() % 4 * 16;
  EACH(tile, TILES) EACH(half, 2) {
    const int row = pass.first + tile * 16 + row_of(half * 2);
    const auto place = (const uint4*)(pass.pixels + (size_t)row * INPUTS + column);
    bytes[tile][half] = row < pass.rows && column < INPUTS ? __ldg(place) : make_uint4(0, 0, 0, 0);
  }
}

INLINE void first_layer(Piece (&outputs)[TILES][pieces(1)], const Pass& pass) {
  float sum[pieces(1)][TILES][8] = {};
  uint4 bytes[TILES][2], next[TILES][2];
  read(next, pass, 0);
#pragma unroll 1
  for (int slice = 0; slice < SLICES; slice++) {
    EACH(tile, TILES) EACH(half, 2) bytes[tile][half] = next[tile][half];
    if (slice + 1 < SLICES) read(next, pass, slice + 1);
    __syncthreads();  // the block's warps read the same weights at the same time
    EACH(step, 4) {
      word a[TILES][4];
      EACH(tile, TILES) EACH(i, 4) {
        const uint4 given = bytes[tile][i % 2];
        const word four = step == 0 ? given.x : step == 1 ? given.y : step == 2 ? given.z : given.w;
        a[tile][i] = pack(odd_integer(four, i / 2 * 2), odd_integer(four, i / 2 * 2 + 1));
      }
      EACH(piece, pieces(1)) DOWN(term, TERMS) {
        const int place = (term * SLICES * 4 + slice * 4 + step) * pieces(1) + piece;
        const uint4 b = __ldg(pass.operands + place * 32 + lane());
        EACH(tile, TILES) multiply(sum[piece][tile], a[tile], b);
      }
    }
  }
  EACH(piece, pieces(1)) activate(outputs, sum[piece], pass, 1, piece, INPUT_SCALE);
}

// From a row's logits to the gradient in them; its loss and its prediction go to the figures.
INLINE void softmax_row(float (&logits)[pieces(LAYERS)][8], int half, int row, Pass& pass) {
  const int label = row < pass.rows ? pass.labels[row] : -1;
  float most = __int_as_float(0xFF800000), total = 0, best = -1;
  int predicted = CLASSES;
#define EACH_LOGIT                                                          \
  EACH(piece, pieces(LAYERS)) EACH(i, 8)                                    \
    if (const int column = piece * 16 + column_of(i); i / 2 % 2 == half && column < CLASSES)
  EACH_LOGIT most = fmaxf(most, logits[piece][i]);
  for (int other = 1; other < 4; other *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, other));
  EACH_LOGIT total += logits[piece][i] = shifted_exp(logits[piece][i], most);
  for (int other = 1; other < 4; other *= 2) total += __shfl_xor_sync(~0u, total, other);
  EACH_LOGIT {
    const float probability = divide_rows(logits[piece][i], total);
    if (probability > best) best = probability, predicted = column;
    if (column == label) pass.loss += crossentropy(probability);
    logits[piece][i] = label < 0 ? 0 : loss_gradient(probability, column, label);
  }
  for (int other = 1; other < 4; other *= 2) {  // of several that are the highest, the first
    const float theirs = __shfl_xor_sync(~0u, best, other);
    const int column = __shfl_xor_sync(~0u, predicted, other);
    if (theirs > best || (theirs == best && column < predicted)) best = theirs, predicted = column;
  }
  if (label >= 0 && lane() % 4 == 0 && predicted < CLASSES) {  // nothing is, where probabilities are no numbers
    pass.right += predicted == label;
    pass.lowest = min(pass.lowest, predicted), pass.highest = max(pass.highest, predicted);
  }
}

// A layer's gradients, summed over the block's rows: of the weights inputsᵀ · dvalues, of the biases onesᵀ · dvalues.
// Of the first layer, whose inputs are the pixels, that of the biases alone; its dvalues go to memory.
template <int LAYER, int INS>
INLINE void sum_over_rows(const Piece (&inputs)[TILES][INS], const Piece (&dvalues)[TILES][pieces(LAYER)],
                          const Pass& pass) {
  extern __shared__ uint4 staged[];  // pieces as a product takes them as b; words x, z, y, w are their transpose as a
  constexpr int OUTS = pieces(LAYER), FROM = LAYER > 1 ? INS : 0, STEPS = WARPS * TILES;
  const int warp = threadIdx.x / 32;
  __syncthreads();
  EACH(term, TERMS) EACH(tile, TILES) EACH(piece, FROM + OUTS) {
    word a[4];
    piece < FROM ? inputs[tile][piece % INS].operand(term, a) : dvalues[tile][piece - FROM].operand(term, a);
    const uint4 b = make_uint4(transposed(a[0]), transposed(a[1]), transposed(a[2]), transposed(a[3]));
    staged[((term * (FROM + OUTS) + piece) * STEPS + warp * TILES + tile) * 32 + lane()] = b;
    const size_t group = term * pass.groups + pass.first / 16 + tile;
    if (LAYER == 1) pass.gradients[(group * OUTS + piece) * 32 + lane()] = b;
  }
  __syncthreads();
#pragma unroll 1
  for (int from = warp; from <= FROM; from += WARPS) {
    float sum[OUTS][8] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
      word a[TERMS][4];
      EACH(term, TERMS) {
        const word ones = term ? 0 : ONES;
        uint4 taken = make_uint4(ones, ones, ones, ones);
        if (from < FROM) taken = staged[((term * (FROM + OUTS) + from) * STEPS + step) * 32 + lane()];
        a[term][0] = taken.x, a[term][1] = taken.z, a[term][2] = taken.y, a[term][3] = taken.w;
      }
      EACH(piece, OUTS) DOWN(j, TERMS) {
        const uint4 b = staged[((j * (FROM + OUTS) + FROM + piece) * STEPS + step) * 32 + lane()];
        DOWN(i, TERMS - j) multiply(sum[piece], a[i], b);
      }
    }
    EACH(piece, OUTS) EACH(i, 8) {
      const int input = from * 16 + row_of(i), column = piece * 16 + column_of(i);
      const bool weight = from < FROM && input < width(LAYER - 1), summed = from == FROM && row_of(i) == 0;
      if (column >= width(LAYER) || !(weight || summed)) continue;
      const int place = weight ? biases_of(LAYER) - (width(LAYER - 1) - input) * width(LAYER) : biases_of(LAYER);
      float* partial = pass.partial + place + column - FIRST_WEIGHTS;
      *partial = pass.again ? *partial + sum[piece][i] : sum[piece][i];
    }
  }
}

// The layers from `LAYER` on, forward and back: `inputs` become the gradient in the sums that they were made from.
template <int LAYER>
INLINE void through(Piece (&inputs)[TILES][pieces(LAYER - 1)], Pass& pass) {
  constexpr int INS = pieces(LAYER - 1), OUTS = pieces(LAYER);
  Piece outputs[TILES][OUTS];
  float logits[TILES][OUTS][8];
  EACH(piece, OUTS) {
    float sum[TILES][8] = {};
    product<INS, OUTS>(sum, inputs, pass.operands + forward_of(LAYER), piece);
    if constexpr (LAYER < LAYERS) activate(outputs, sum, pass, LAYER, piece, 1);
    else EACH(tile, TILES) EACH(i, 8)
      logits[tile][piece][i] = sum[tile][i] + bias(pass, LAYER, piece * 16 + column_of(i));
  }
  if constexpr (LAYER < LAYERS)
    through<LAYER + 1>(outputs, pass);
  else
    EACH(tile, TILES) {
      EACH(half, 2) softmax_row(logits[tile], half, pass.first + tile * 16 + row_of(half * 2), pass);
      EACH(piece, OUTS) outputs[tile][piece].set(logits[tile][piece]);
    }
  sum_over_rows<LAYER>(inputs, outputs, pass);
  EACH(piece, INS) {
    float sum[TILES][8] = {};
    product<OUTS, INS>(sum, outputs, pass.operands + backward_of(LAYER), piece);
    EACH(tile, TILES) {
      EACH(i, 8) sum[tile][i] = relu_gradient(sum[tile][i], inputs[tile][piece].at(i));
      inputs[tile][piece].set(sum[tile]);
    }
  }
}
// Figures: sum of the losses, rows that are right, penalty, lowest and highest class predicted.
INLINE double merged(int figure, double one, double other) {
  return figure < 3 ? one + other : figure == 3 ? fmin(one, other) : fmax(one, other);
}
// Rows through the network and back. Leaves the gradient in the first layer's sums, and of each block the sums of all
// other gradients, and the figures.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
pass(const unsigned char* pixels, const unsigned char* labels, const float* parameters, const uint4* operands,
     uint4* gradients, float* partial, double* figures, int rows, int groups) {
  partial += blockIdx.x * (SIZE - FIRST_WEIGHTS);
  Pass pass = {pixels, labels, parameters, operands, gradients, partial, rows, groups, 0, false, 0, 0, CLASSES, -1};
  const int warp = threadIdx.x / 32, many = WARPS * TILES * 16;
#pragma unroll 1
  for (int start = blockIdx.x * many; start < rows; start += gridDim.x * many) {
    pass.first = start + warp * TILES * 16;
    Piece values[TILES][pieces(1)];
    first_layer(values, pass);
    through<2>(values, pass);
    sum_over_rows<1>(values, values, pass);
    pass.again = true;
  }
  double sums[FIGURES] = {pass.loss, double(pass.right), 0, double(pass.lowest), double(pass.highest)};
  for (int i = blockIdx.x * WARPS * 32 + threadIdx.x; i < SIZE; i += gridDim.x * WARPS * 32)
    sums[2] += penalty(parameters[i], part_of(i));
  __shared__ double of_warps[WARPS][FIGURES];
  EACH(figure, FIGURES) {
    for (int other = 16; other; other /= 2)
      sums[figure] = merged(figure, sums[figure], __shfl_xor_sync(~0u, sums[figure], other));
    if (lane() == 0) of_warps[warp][figure] = sums[figure];
  }
  __syncthreads();
  if (threadIdx.x >= FIGURES) return;
  double sum = of_warps[0][threadIdx.x];
  EACH(other, WARPS - 1) sum = merged(threadIdx.x, sum, of_warps[other + 1][threadIdx.x]);
  figures[blockIdx.x * FIGURES + threadIdx.x] = sum;
}

// The pixels' transpose times the gradient in the first layer's sums: a warp has 64 inputs and up to 64 columns, and
// every gridDim.y-th group of 16 rows from the last to the first: the last rows are still in the level-2 cache.
extern "C" __global__ void __launch_bounds__(SLICE_WARPS * 32)
weights(const unsigned char* pixels, const uint4* gradients, float* partial, int rows, int groups) {
  const int slice = blockIdx.x * SLICE_WARPS + threadIdx.x / 32, column = slice * 64 + lane() / 4 * 8;
  float sum[4][SLICE_PIECES][8] = {};
  uint2 bytes[4], next[4];
  auto read = [&](int group) {
    EACH(i, 4) {  // a lane's four rows, eight inputs of each
      const int row = group * 16 + lane() % 4 * 2 + i % 2 + i / 2 * 8;
      const auto place = (const uint2*)(pixels + (size_t)row * INPUTS + column);
      next[i] = row < rows && column < INPUTS ? __ldg(place) : make_uint2(0, 0);
    }
  };
  int group = (rows - 1) / 16 - int(blockIdx.y);
  if (group >= 0) read(group);
#pragma unroll 1
  for (; group >= 0; group -= gridDim.y) {
    EACH(i, 4) bytes[i] = next[i];
    if (group >= int(gridDim.y)) read(group - gridDim.y);
    __syncthreads();  // the block's warps read the same gradients at the same time
    EACH(own, SLICE_PIECES) {
      const int piece = blockIdx.z * SLICE_PIECES + own;
      if (piece >= pieces(1)) continue;
      uint4 b[TERMS];
      const auto place = gradients + (size_t)(group * pieces(1) + piece) * 32 + lane();
      EACH(term, TERMS) b[term] = __ldg(place + (size_t)term * groups * pieces(1) * 32);
      EACH(tile, 4) {
        word a[4];
        EACH(i, 4) {  // input 2 · tile or the next, of two neighbouring rows
          const uint2 low = bytes[i / 2 * 2], high = bytes[i / 2 * 2 + 1];
          const int at = tile * 2 % 4 + i % 2;
          a[i] = pack(odd_integer(tile < 2 ? low.x : low.y, at), odd_integer(tile < 2 ? high.x : high.y, at));
        }
        DOWN(term, TERMS) multiply(sum[tile][own], a, b[term]);
      }
    }
  }
  EACH(tile, 4) EACH(own, SLICE_PIECES) EACH(i, 8) {
    const int input = column + tile * 2 + i / 2 % 2, output = (blockIdx.z * SLICE_PIECES + own) * 16 + column_of(i);
    if (input < INPUTS && output < width(1))
      partial[(size_t)blockIdx.y * FIRST_WEIGHTS + input * width(1) + output] = sum[tile][own][i];
  }
}

// Where, in 16 bits, a number of weights (steps · 16, pieces · 16) lies as products take them.
INLINE int place_of(int k, int column, int steps, int pieces, int term) {
  const int piece = (term * steps + k / 16) * pieces + column / 16, lane = column % 8 * 4 + k % 8 / 2;
  return ((piece * 32 + lane) * 4 + column / 8 % 2 * 2 + k / 8 % 2) * 2 + k % 2;
}

// Each parameter's gradient from the parts of it, in their order, its update, and its copies as operands; where `kept`,
// these alone. Where `log`, the figures of all rows.
extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
update(const float* partial, const float* first_partial, const double* figures, float* parameters, float* gradients,
       const float* coefficients, unsigned short* operands, double* totals, int blocks, int splits, int rows, int kept,
       int log MOMENT_PARAMETERS) {
  const int i = blockIdx.x * UPDATE_THREADS + threadIdx.x;
  if (log && i < FIGURES) {
    double sum = figures[i];
#pragma unroll 16
    for (int block = 1; block < blocks; block++) sum = merged(i, sum, figures[block * FIGURES + i]);
    totals[i] = i < 2 ? sum / rows : sum;
  }
  if (i >= SIZE) return;
  const Part part = part_of(i);
  float parameter = parameters[i];
  if (!kept) {
    const float* parts = i < FIRST_WEIGHTS ? first_partial + i : partial + i - FIRST_WEIGHTS;
    const int stride = i < FIRST_WEIGHTS ? FIRST_WEIGHTS : SIZE - FIRST_WEIGHTS;
    float gradient = 0;
#pragma unroll 16  // so many reads at once
    for (int number = 0; number < (i < FIRST_WEIGHTS ? splits : blocks); number++)
      gradient += parts[(size_t)number * stride];
    gradient *= i < FIRST_WEIGHTS ? INPUT_SCALE : 1;
    gradients[i] = gradient = penalty_gradient(gradient * (1.0f / rows), parameter, part);
    STEP
    parameters[i] = parameter;
  }
  if (!part.weights) return;
  const int outputs = width(part.layer), row = (i - part.start) / outputs, column = (i - part.start) % outputs;
  const int ins = pieces(part.layer - 1), outs = pieces(part.layer);
  EACH(term, TERMS) {
    const unsigned short number = pack(term_of(parameter, term), 0);
    // 16 neighbouring inputs of the first layer are 4 of each of 4 steps, see `read`.
    const int mixed = row / 64 * 64 + row / 4 % 4 * 16 + row / 16 % 4 * 2 + row % 2 + row / 2 % 2 * 8;
    if (part.layer == 1) operands[place_of(mixed, column, SLICES * 4, outs, term)] = number;
    else operands[forward_of(part.layer) * 8 + place_of(row, column, ins, outs, term)] = number;
    if (part.layer > 1) operands[backward_of(part.layer) * 8 + place_of(column, row, outs, ins, term)] = number;
  }
}
