// What a draw needs of logits that stay on the GPU: the likeliest tokens, and sums over all. A block for each row.
#include "numbers.cuh"

#define THREADS 1024
#define WARPS (THREADS / 32)
// Tokens of a row at most; `outline.rs` has the same number.
#define TOKENS_MAX 1024
// Tokens are counted by how far they are below the likeliest, in steps of the logarithm of their weight; those that are further away
// weigh less than a millionth of it.
#define STEPS 64
#define STEPS_OF_ONE 4.f

struct Ask {
    float scale;       // of logits: the reciprocal of the temperature
    int top_k;         // so many tokens at least; 0: as many as hold `top_p` together
    float top_p;
    unsigned forbidden; // classes of tokens that cannot be drawn
};

struct Outline {
    float most, total;                 // of all tokens: the largest logit; the sum of exp(logit - most)
    float most_allowed, total_allowed; // of those that can be drawn: the same with scaled logits
    int n_tokens;                      // may be more than fit
    int unused[3];
};

struct Token {
    unsigned id;
    float logit;
};

__device__ float most_of_block(float value, float *room) {
    value = most_of_warp(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    return most_of_warp(room[threadIdx.x % WARPS]);
}

__device__ float sum_of_block(float value, float *room) {
    value = sum_of_warp(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    return sum_of_warp(room[threadIdx.x % WARPS]);
}

// Calls `see(id, logit)` for every token of a row, sixteen bytes at a time where rows begin at such.
template <typename T, typename See> __device__ void each(const T *row, int n_columns, See see) {
    constexpr int WIDTH = 16 / sizeof(T);
    if (n_columns % WIDTH == 0) {
#pragma unroll 4
        for (int at = threadIdx.x; at < n_columns / WIDTH; at += THREADS) {
            const Pack<T> pack = ((const Pack<T> *)row)[at];
#pragma unroll
            for (int in_pack = 0; in_pack < WIDTH; in_pack++) see(at * WIDTH + in_pack, number(pack.of[in_pack]));
        }
    } else {
        for (int at = threadIdx.x; at < n_columns; at += THREADS) see(at, number(row[at]));
    }
}

template <typename T>
__device__ void outline(
    const T *logits,              // (rows, n_columns)
    const unsigned char *classes, // of each column, one bit each; null: there are none
    const Ask *asks,
    Outline *outlines,
    Token *tokens,                // (rows, TOKENS_MAX)
    int n_columns
) {
    const int row_idx = blockIdx.x;
    const T *row = logits + (size_t)row_idx * n_columns;
    const Ask ask = asks[row_idx];
    __shared__ float room[WARPS], weights[STEPS];
    __shared__ int counts[STEPS], n_tokens, n_steps;
    if (threadIdx.x < STEPS) counts[threadIdx.x] = 0, weights[threadIdx.x] = 0.f;
    if (threadIdx.x == 0) n_tokens = 0;
    auto is_allowed = [&](int id) { return !(ask.forbidden && classes && (classes[id] & ask.forbidden)); };

    // What is no number cannot be drawn, and fmaxf passes it over.
    float most = -INFINITY, most_allowed = -INFINITY;
    each(row, n_columns, [&](int id, float logit) {
        most = fmaxf(most, logit);
        if (logit > most_allowed && is_allowed(id)) most_allowed = logit;
    });
    most = most_of_block(most, room);
    most_allowed = most_of_block(most_allowed, room);

    float total = 0.f, total_allowed = 0.f;
    each(row, n_columns, [&](int id, float logit) {
        if (!(logit > -INFINITY)) return;
        total += __expf(logit - most);
        const float below = (most_allowed - logit) * ask.scale;
        // Of what weighs nothing it does not matter whether it is allowed; only what is forbidden can be above.
        if (below > 80.f || !is_allowed(id)) return;
        const float weight = __expf(-below);
        total_allowed += weight;
        const float step = below * STEPS_OF_ONE;
        if (step < STEPS) {
            atomicAdd(&counts[(int)step], 1);
            atomicAdd(&weights[(int)step], weight);
        }
    });
    total = sum_of_block(total, room);
    total_allowed = sum_of_block(total_allowed, room);

    if (threadIdx.x == 0) {
        int count = 0, step = 0;
        float weight = 0.f;
        // A little more than the share, for sums of f32 are not exact.
        const float wanted = (ask.top_p + 1e-4f) * total_allowed;
        while (step < STEPS && (ask.top_k > 0 ? count < ask.top_k : weight < wanted)) {
            count += counts[step];
            weight += weights[step];
            step++;
        }
        n_steps = step;
    }
    __syncthreads();

    each(row, n_columns, [&](int id, float logit) {
        const float step = (most_allowed - logit) * ask.scale * STEPS_OF_ONE;
        if (!(step < n_steps) || !is_allowed(id)) return;
        const int place = atomicAdd(&n_tokens, 1);
        if (place < TOKENS_MAX) tokens[(size_t)row_idx * TOKENS_MAX + place] = {(unsigned)id, logit};
    });
    __syncthreads();
    if (threadIdx.x == 0) outlines[row_idx] = {most, total, most_allowed, total_allowed, n_tokens, {}};
}

#define OUTLINE(SUFFIX, T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) outline_##SUFFIX(                                                      \
        const T *logits, const unsigned char *classes, const Ask *asks, Outline *outlines, Token *tokens, int n_columns         \
    ) {                                                                                                                          \
        outline<T>(logits, classes, asks, outlines, tokens, n_columns);                                                          \
    }

OUTLINE(f32, float)
OUTLINE(f16, __half)
OUTLINE(bf16, __nv_bfloat16)
