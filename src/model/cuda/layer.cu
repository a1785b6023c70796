// What a decoder layer does between its matrix products: norm, rotation of heads, gate. Sums are taken in f32, and results are rounded once.
#include "numbers.cuh"

// Threads of a block.
#define THREADS 128
#define WARPS (THREADS / 32)
// A head is at most this wide, and a multiple of 8 numbers; a lane of a warp holds pairs of it.
#define DIM_MAX 128
#define PAIRS_MAX (DIM_MAX / 2 / 32)

struct Shape {
    int n_heads;
    int n_kv_heads;
    int dim;
    float eps;
};

__device__ float sum_of_block(float value) {
    __shared__ float of_warps[WARPS];
    value = sum_of_warp(value);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.f;
    for (int warp = 0; warp < WARPS; warp++) sum += of_warps[warp];
    return sum;
}

// A block for each row: x / sqrt(mean(x^2) + eps) * weight. `width` is a multiple of 8.
template <typename T>
__device__ void norm(const T *input, const T *weight, T *output, int width, float eps) {
    constexpr int WIDTH = 16 / sizeof(T);
    const size_t row_at = (size_t)blockIdx.x * width;
    const Pack<T> *row = (const Pack<T> *)(input + row_at), *weights = (const Pack<T> *)weight;
    Pack<T> *normed = (Pack<T> *)(output + row_at);
    float squares = 0.f;
    for (int at = threadIdx.x; at < width / WIDTH; at += THREADS) {
        const Pack<T> pack = row[at];
#pragma unroll
        for (int in_pack = 0; in_pack < WIDTH; in_pack++) squares += number(pack.of[in_pack]) * number(pack.of[in_pack]);
    }
    const float scale = rsqrtf(sum_of_block(squares) / width + eps);
    for (int at = threadIdx.x; at < width / WIDTH; at += THREADS) {
        const Pack<T> pack = row[at], of_weight = weights[at];
        Pack<T> result;
#pragma unroll
        for (int in_pack = 0; in_pack < WIDTH; in_pack++)
            result.of[in_pack] = rounded<T>(number(pack.of[in_pack]) * scale * number(of_weight.of[in_pack]));
        normed[at] = result;
    }
}

// A warp for each head of each row: adds the bias, norms the heads of queries and keys where they have norms, and rotates them.
template <typename T>
__device__ void rotate(
    const T *input,                     // (rows, n_heads + 2 n_kv_heads, dim): queries, keys, values
    const T *bias,                      // of one row; null: none
    const T *query_norm,                // (dim); null: none
    const T *key_norm,
    const T *cosines,                   // (n_angles, dim / 2), which repeat
    const T *sines,
    T *output,                          // all queries (rows, n_heads, dim), then all keys, then all values (rows, n_kv_heads, dim)
    int n_rows,
    int n_angles,
    Shape shape
) {
    const int row = blockIdx.x, lane = threadIdx.x % 32, head = blockIdx.y * WARPS + threadIdx.x / 32;
    const int dim = shape.dim, half = dim / 2, n_of_row = shape.n_heads + 2 * shape.n_kv_heads;
    if (head >= n_of_row) return;
    const bool is_query = head < shape.n_heads, is_value = head >= shape.n_heads + shape.n_kv_heads;
    const T *from = input + ((size_t)row * n_of_row + head) * dim;
    size_t to = is_query ? (size_t)row * shape.n_heads + head
                         : (size_t)n_rows * shape.n_heads + (size_t)row * shape.n_kv_heads + head - shape.n_heads;
    if (is_value) to = (size_t)n_rows * (shape.n_heads + shape.n_kv_heads) + (size_t)row * shape.n_kv_heads + head - shape.n_heads - shape.n_kv_heads;
    float first[PAIRS_MAX], second[PAIRS_MAX], squares = 0.f;
#pragma unroll
    for (int part = 0; part < PAIRS_MAX; part++) {
        const int pair = part * 32 + lane;
        first[part] = second[part] = 0.f;
        if (pair < half) {
            first[part] = number(from[pair]) + (bias ? number(bias[head * dim + pair]) : 0.f);
            second[part] = number(from[half + pair]) + (bias ? number(bias[head * dim + half + pair]) : 0.f);
        }
        squares += first[part] * first[part] + second[part] * second[part];
    }
    const T *weight = is_query ? query_norm : key_norm;
    const bool is_normed = weight && !is_value;
    const float scale = is_normed ? rsqrtf(sum_of_warp(squares) / dim + shape.eps) : 1.f;
#pragma unroll
    for (int part = 0; part < PAIRS_MAX; part++) {
        const int pair = part * 32 + lane;
        if (pair >= half) continue;
        float a = first[part], b = second[part];
        if (is_normed) {
            a *= scale * number(weight[pair]);
            b *= scale * number(weight[half + pair]);
        }
        if (!is_value) {
            const size_t at = (size_t)(row % n_angles) * half + pair;
            const float cosine = number(cosines[at]), sine = number(sines[at]);
            const float rotated = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = rotated;
        }
        output[to * dim + pair] = rounded<T>(a);
        output[to * dim + half + pair] = rounded<T>(b);
    }
}

// silu(gate) * up: (rows, 2, width), gates before what they gate, to (rows, width). `width` is a multiple of 8.
template <typename T>
__device__ void gate(const T *input, T *output, int width) {
    constexpr int WIDTH = 16 / sizeof(T);
    const int at = blockIdx.y * THREADS + threadIdx.x, n_packs = width / WIDTH;
    if (at >= n_packs) return;
    const Pack<T> *row = (const Pack<T> *)input + (size_t)blockIdx.x * 2 * n_packs;
    const Pack<T> gates = row[at], ups = row[n_packs + at];
    Pack<T> result;
#pragma unroll
    for (int in_pack = 0; in_pack < WIDTH; in_pack++) {
        const float x = number(gates.of[in_pack]);
        result.of[in_pack] = rounded<T>(x / (1.f + __expf(-x)) * number(ups.of[in_pack]));
    }
    ((Pack<T> *)output)[(size_t)blockIdx.x * n_packs + at] = result;
}

#define LAYER(SUFFIX, T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) norm_##SUFFIX(                                                          \
        const T *input, const T *weight, T *output, int width, float eps                                                         \
    ) {                                                                                                                           \
        norm<T>(input, weight, output, width, eps);                                                                               \
    }                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) rotate_##SUFFIX(                                                        \
        const T *input, const T *bias, const T *query_norm, const T *key_norm, const T *cosines, const T *sines, T *output,      \
        int n_rows, int n_angles, Shape shape                                                                                     \
    ) {                                                                                                                           \
        rotate<T>(input, bias, query_norm, key_norm, cosines, sines, output, n_rows, n_angles, shape);                            \
    }                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) gate_##SUFFIX(const T *input, T *output, int width) {                   \
        gate<T>(input, output, width);                                                                                            \
    }

LAYER(f32, float)
LAYER(f16, __half)
LAYER(bf16, __nv_bfloat16)
