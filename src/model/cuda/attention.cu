// Attention of new positions to a shared prompt, to each row's own tail, and to themselves: one launch for up to thirty groups of a step.
//
// A block computes the query heads that share one key head, for one row: keys and values are read once for all of them. It goes
// through the positions in chunks of one position a thread, and keeps the largest score and the sum of weights so far
// (online softmax, arXiv 1805.02867), so that any number of positions fits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// What one launch takes at most: kernel arguments have 4 KiB, and a group needs 128 bytes of them. `attention.rs` has the same numbers.
#define GROUPS_MAX 30
#define ROWS_MAX 32
// Threads of a block, and positions of a chunk.
#define THREADS 128
#define WARPS (THREADS / 32)
// Query heads that a block computes at most; more of one key head take several blocks.
#define HEADS_MAX 8
// A head is at most this wide, and a multiple of 8 numbers, so that a thread reads 16 bytes at a time.
#define DIM_MAX 128

struct Group {
    const void *prefix_key, *prefix_value; // (n_kv_heads, prefix_room, dim)
    void *tail_key, *tail_value;           // (n_kv_heads, tail_rows, tail_room, dim); null: there are none
    int prefix_room;
    int n_prefix;  // positions of the prefix that the first row sees
    int is_prompt; // rows are positions of the prefix one after the other: each sees one more than the row before, and brings nothing
    int tail_rows;
    int tail_room;
    int n_tail; // positions in tails
    int first_row;
    int n_rows;
    unsigned short slots[ROWS_MAX]; // where in the tails each row has its own
};

struct Groups {
    Group of[GROUPS_MAX];
};

struct Shape {
    int n_heads;
    int n_kv_heads;
    int dim;
    float scale;
};

template <typename T> __device__ float number(T value);
template <> __device__ float number(float value) { return value; }
template <> __device__ float number(__half value) { return __half2float(value); }
template <> __device__ float number(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T> __device__ T rounded(float value);
template <> __device__ float rounded(float value) { return value; }
template <> __device__ __half rounded(float value) { return __float2half(value); }
template <> __device__ __nv_bfloat16 rounded(float value) { return __float2bfloat16(value); }

// Numbers that are read at once.
template <typename T> struct alignas(16) Pack {
    T of[16 / sizeof(T)];
};

__device__ float most_of_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ float sum_of_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

template <typename T>
__device__ void attend(
    const T *query,  // (rows, n_heads, dim)
    const T *key,    // (rows, n_kv_heads, dim), of the rows' new positions
    const T *value,
    T *output,       // (rows, n_heads, dim)
    const Groups &groups,
    Shape shape
) {
    const Group &group = groups.of[blockIdx.y];
    const int row = blockIdx.x, thread = threadIdx.x;
    if (row >= group.n_rows) return;
    const int n_shared = shape.n_heads / shape.n_kv_heads, dim = shape.dim;
    const int parts = (n_shared + HEADS_MAX - 1) / HEADS_MAX;
    const int kv_head = blockIdx.z / parts, first_head = blockIdx.z % parts * HEADS_MAX;
    const int n_heads = min(HEADS_MAX, n_shared - first_head);
    const size_t new_at = ((size_t)(group.first_row + row) * shape.n_kv_heads + kv_head) * dim;
    const size_t heads_at = (size_t)(group.first_row + row) * shape.n_heads + kv_head * n_shared + first_head;

    __shared__ float queries[HEADS_MAX][DIM_MAX];
    __shared__ float weights[HEADS_MAX][THREADS];
    __shared__ float of_warps[HEADS_MAX][WARPS];
    __shared__ float mixed[THREADS];

    for (int at = thread; at < n_heads * dim; at += THREADS)
        queries[at / dim][at % dim] = number(query[heads_at * dim + at]) * shape.scale;

    // Where keys and values lie: the prefix, this row's tail, and the new position.
    const size_t prefix_at = (size_t)kv_head * group.prefix_room * dim;
    const size_t tail_at = ((size_t)kv_head * group.tail_rows + group.slots[row % ROWS_MAX]) * group.tail_room * dim;
    const int n_prefix = group.n_prefix + (group.is_prompt ? row : 0);
    const int n_tail = group.is_prompt ? 0 : group.n_tail;
    const int n_positions = n_prefix + n_tail + (group.is_prompt ? 0 : 1);
    const T *prefix_key = (const T *)group.prefix_key + prefix_at;
    const T *prefix_value = (const T *)group.prefix_value + prefix_at;
    T *tail_key = group.is_prompt ? nullptr : (T *)group.tail_key + tail_at;
    T *tail_value = group.is_prompt ? nullptr : (T *)group.tail_value + tail_at;
    auto place = [&](int position, const T *prefix, const T *tail, const T *own) {
        if (position < n_prefix) return prefix + (size_t)position * dim;
        if (position < n_prefix + n_tail) return tail + (size_t)(position - n_prefix) * dim;
        return own;
    };
    if (!group.is_prompt && first_head == 0) {
        for (int at = thread; at < dim; at += THREADS) {
            tail_key[(size_t)n_tail * dim + at] = key[new_at + at];
            tail_value[(size_t)n_tail * dim + at] = value[new_at + at];
        }
    }

    // A thread adds up one dimension of all heads over its slice of a chunk's positions.
    const int slices = THREADS / dim, slice = thread / dim, my_dim = thread % dim;
    float sums[HEADS_MAX], most[HEADS_MAX], total[HEADS_MAX];
#pragma unroll
    for (int head = 0; head < HEADS_MAX; head++) sums[head] = 0.f, most[head] = -INFINITY, total[head] = 0.f;
    __syncthreads();

    for (int start = 0; start < n_positions; start += THREADS) {
        const int position = start + thread;
        float scores[HEADS_MAX];
#pragma unroll
        for (int head = 0; head < HEADS_MAX; head++) scores[head] = position < n_positions ? 0.f : -INFINITY;
        if (position < n_positions) {
            const Pack<T> *keys = (const Pack<T> *)place(position, prefix_key, tail_key, key + new_at);
            constexpr int WIDTH = 16 / sizeof(T);
            for (int at = 0; at < dim; at += WIDTH) {
                const Pack<T> pack = keys[at / WIDTH];
#pragma unroll
                for (int in_pack = 0; in_pack < WIDTH; in_pack++) {
                    const float number_of_key = number(pack.of[in_pack]);
#pragma unroll
                    for (int head = 0; head < HEADS_MAX; head++)
                        if (head < n_heads) scores[head] += queries[head][at + in_pack] * number_of_key;
                }
            }
        }
#pragma unroll
        for (int head = 0; head < HEADS_MAX; head++) {
            if (head >= n_heads) break;
            const float warp_most = most_of_warp(scores[head]);
            if (thread % 32 == 0) of_warps[head][thread / 32] = warp_most;
        }
        __syncthreads();
#pragma unroll
        for (int head = 0; head < HEADS_MAX; head++) {
            if (head >= n_heads) break;
            float most_now = most[head];
            for (int warp = 0; warp < WARPS; warp++) most_now = fmaxf(most_now, of_warps[head][warp]);
            const float kept = __expf(most[head] - most_now); // 0 the first time
            const float weight = __expf(scores[head] - most_now);
            weights[head][thread] = weight;
            // Of this thread's positions only; added up over threads at the end.
            total[head] = total[head] * kept + weight;
            sums[head] *= kept;
            most[head] = most_now;
        }
        __syncthreads();
        const int n_chunk = min(THREADS, n_positions - start);
        if (slice < slices) {
            for (int at = slice; at < n_chunk; at += slices) {
                const float number_of_value =
                    number(place(start + at, prefix_value, tail_value, value + new_at)[my_dim]);
#pragma unroll
                for (int head = 0; head < HEADS_MAX; head++)
                    if (head < n_heads) sums[head] += weights[head][at] * number_of_value;
            }
        }
        // The next chunk writes what is read here.
        __syncthreads();
    }

#pragma unroll
    for (int head = 0; head < HEADS_MAX; head++) {
        if (head >= n_heads) break;
        const float warp_total = sum_of_warp(total[head]);
        if (thread % 32 == 0) of_warps[head][thread / 32] = warp_total;
        mixed[thread] = sums[head];
        __syncthreads();
        if (thread < dim) {
            float all = 0.f, sum = 0.f;
            for (int warp = 0; warp < WARPS; warp++) all += of_warps[head][warp];
            for (int of_slice = 0; of_slice < slices; of_slice++) sum += mixed[of_slice * dim + thread];
            output[(heads_at + head) * dim + thread] = rounded<T>(sum / all);
        }
        __syncthreads();
    }
}

#define ATTEND(NAME, T)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                                                  \
        const T *query, const T *key, const T *value, T *output, const __grid_constant__ Groups groups, Shape shape             \
    ) {                                                                                                                          \
        attend<T>(query, key, value, output, groups, shape);                                                                     \
    }

ATTEND(attend_f32, float)
ATTEND(attend_f16, __half)
ATTEND(attend_bf16, __nv_bfloat16)
