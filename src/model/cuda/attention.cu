// Attention of new positions to a shared prompt, to each row's own tail, and to themselves, in two launches for up to thirty groups of
// a step.
//
// A block takes a piece of the positions that a group sees, and some of the queries that share one key head: keys and values come once
// for all of them, through shared memory. It keeps the largest score and the sum of weights so far (online softmax, arXiv 1805.02867).
// A second kernel merges the pieces of each query, as in Flash-Decoding (Dao et al., 2023).
#include "numbers.cuh"

// What one launch takes at most: kernel arguments have 4 KiB, and a group needs 128 bytes of them. `attention.rs` has the same numbers.
#define GROUPS_MAX 30
#define ROWS_MAX 32
// Threads of a block, and its queries.
#define THREADS 128
#define WARPS (THREADS / 32)
#define QUERIES 32
// Threads that share four queries. Each has two positions of a tile, and up to eight dimensions of the result.
#define LANES 16
#define QUERIES_OF_THREAD (QUERIES * LANES / THREADS)
// Positions that are in shared memory at a time, and positions of a block.
#define TILE 32
#define PIECE 64
// A head is at most this wide, and a multiple of 8 numbers, so that a thread reads 16 bytes at a time.
#define DIM_MAX 128
// Rows of shared memory begin four banks apart, so that threads read four numbers of different rows at once.
#define STRIDE (DIM_MAX + 4)

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
    int n_rows;   // of all groups
    int n_pieces; // of the query that has the most
};

__device__ int pieces_of(int n_positions) { return (n_positions + PIECE - 1) / PIECE; }

__device__ float4 &four(float *at) { return *(float4 *)at; }

// Where keys or values come from: positions one after the other, but for one that lies elsewhere.
template <typename T> struct Positions {
    const T *first;
    const T *own;
    int own_at;
    int end;
    int dim;

    __device__ const T *at(int position) const {
        if (position >= end) return nullptr;
        return position == own_at ? own : first + (size_t)position * dim;
    }
};

// Up to TILE rows of numbers on their way to shared memory: a part in each thread's registers.
template <typename T> struct Ahead {
    static constexpr int WIDTH = 16 / sizeof(T), PACKS = TILE * DIM_MAX / WIDTH / THREADS;
    Pack<T> of[PACKS];

    // `place`: where a row lies; null: it is zero.
    template <typename Place> __device__ void fetch(int dim, Place place) {
        const int packs_of_row = dim / WIDTH;
#pragma unroll
        for (int part = 0; part < PACKS; part++) {
            const int pack = part * THREADS + threadIdx.x, row = pack / packs_of_row;
            const T *numbers = row < TILE ? place(row) : nullptr;
            of[part] = numbers ? ((const Pack<T> *)numbers)[pack % packs_of_row] : Pack<T>{};
        }
    }

    __device__ void put(float tile[TILE][STRIDE], int dim, float scale) const {
        const int packs_of_row = dim / WIDTH;
#pragma unroll
        for (int part = 0; part < PACKS; part++) {
            const int pack = part * THREADS + threadIdx.x, row = pack / packs_of_row;
            if (row >= TILE) continue;
#pragma unroll
            for (int at = 0; at < WIDTH; at += 4) {
                const T *numbers = of[part].of + at;
                four(&tile[row][pack % packs_of_row * WIDTH + at]) = make_float4(
                    number(numbers[0]) * scale, number(numbers[1]) * scale, number(numbers[2]) * scale, number(numbers[3]) * scale
                );
            }
        }
    }
};
static_assert(QUERIES == TILE, "queries come as tiles do");

__device__ float most_of_lanes(float value) {
    for (int step = LANES / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ float sum_of_lanes(float value) {
    for (int step = LANES / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

template <typename T>
__device__ void attend(
    const T *query,  // (rows, n_heads, dim)
    const T *key,    // (rows, n_kv_heads, dim), of the rows' new positions
    const T *value,
    float *pieces,   // (rows, n_heads, n_pieces, dim): weighted sums; and behind all, (rows, n_heads, n_pieces, 2): largest scores and sums of weights
    const Groups &groups,
    Shape shape
) {
    const Group &group = groups.of[blockIdx.y];
    const int thread = threadIdx.x, lane = thread % LANES, mine = thread / LANES * QUERIES_OF_THREAD;
    const int n_shared = shape.n_heads / shape.n_kv_heads, dim = shape.dim;
    const int kv_head = blockIdx.z % shape.n_kv_heads, first_query = blockIdx.z / shape.n_kv_heads * QUERIES;

    // Pieces of the prefix are for all rows; behind them, each row has its tail and its new position.
    const int n_prefix = group.n_prefix + (group.is_prompt ? group.n_rows - 1 : 0);
    const int n_of_prefix = pieces_of(n_prefix), row_of_tail = (int)blockIdx.x - n_of_prefix;
    const bool is_tail = row_of_tail >= 0;
    if (is_tail && (group.is_prompt || row_of_tail >= group.n_rows)) return;
    const int first_row = is_tail ? row_of_tail : 0;
    const int n_queries = min(QUERIES, (is_tail ? 1 : group.n_rows) * n_shared - first_query);
    if (n_queries <= 0) return;
    const int start = is_tail ? 0 : blockIdx.x * PIECE;
    const int end = is_tail ? group.n_tail + 1 : min(start + PIECE, n_prefix);
    auto row_of = [&](int query) { return first_row + (first_query + query) / n_shared; };
    auto head_of = [&](int query) { return kv_head * n_shared + (first_query + query) % n_shared; };
    auto n_seen_by = [&](int query) { return is_tail ? end : group.n_prefix + (group.is_prompt ? row_of(query) : 0); };
    if (start >= n_seen_by(n_queries - 1)) return;

    Positions<T> keys = {(const T *)group.prefix_key + (size_t)kv_head * group.prefix_room * dim, nullptr, -1, end, dim};
    Positions<T> values = keys;
    values.first = (const T *)group.prefix_value + (size_t)kv_head * group.prefix_room * dim;
    if (is_tail) {
        const size_t tail_at = ((size_t)kv_head * group.tail_rows + group.slots[row_of_tail]) * group.tail_room * dim;
        const size_t own_at = ((size_t)(group.first_row + row_of_tail) * shape.n_kv_heads + kv_head) * dim;
        T *key_tail = (T *)group.tail_key + tail_at, *value_tail = (T *)group.tail_value + tail_at;
        keys = {key_tail, key + own_at, group.n_tail, end, dim};
        values = {value_tail, value + own_at, group.n_tail, end, dim};
        if (first_query == 0 && thread < dim) {
            key_tail[(size_t)group.n_tail * dim + thread] = key[own_at + thread];
            value_tail[(size_t)group.n_tail * dim + thread] = value[own_at + thread];
        }
    }

    __shared__ __align__(16) float queries[QUERIES][STRIDE];
    __shared__ __align__(16) float tile[TILE][STRIDE];
    __shared__ __align__(16) float weights[QUERIES][TILE + 4];
    Ahead<T> ahead;
    ahead.fetch(dim, [&](int at) -> const T * {
        const size_t row = group.first_row + row_of(at);
        return at < n_queries ? query + (row * shape.n_heads + head_of(at)) * dim : nullptr;
    });
    ahead.put(queries, dim, shape.scale);
    ahead.fetch(dim, [&](int at) { return keys.at(start + at); });
    int n_seen[QUERIES_OF_THREAD];
    float most[QUERIES_OF_THREAD], total[QUERIES_OF_THREAD], sums[QUERIES_OF_THREAD][2][4];
#pragma unroll
    for (int q = 0; q < QUERIES_OF_THREAD; q++) {
        n_seen[q] = mine + q < n_queries ? min(end, n_seen_by(mine + q)) : 0;
        most[q] = -INFINITY;
        total[q] = 0.f;
#pragma unroll
        for (int at = 0; at < 8; at++) sums[q][at / 4][at % 4] = 0.f;
    }

    for (int at = start; at < end; at += TILE) {
        ahead.put(tile, dim, 1.f);
        ahead.fetch(dim, [&](int row) { return values.at(at + row); });
        __syncthreads();
        float scores[QUERIES_OF_THREAD][2] = {};
        for (int part = 0; part < dim; part += 4) {
            const float4 keys_of[2] = {four(&tile[lane][part]), four(&tile[lane + LANES][part])};
#pragma unroll
            for (int q = 0; q < QUERIES_OF_THREAD; q++) {
                const float4 x = four(&queries[mine + q][part]);
#pragma unroll
                for (int p = 0; p < 2; p++)
                    scores[q][p] += x.x * keys_of[p].x + x.y * keys_of[p].y + x.z * keys_of[p].z + x.w * keys_of[p].w;
            }
        }
#pragma unroll
        for (int q = 0; q < QUERIES_OF_THREAD; q++) {
#pragma unroll
            for (int p = 0; p < 2; p++)
                if (at + lane + p * LANES >= n_seen[q]) scores[q][p] = -INFINITY;
            const float most_now = fmaxf(most[q], most_of_lanes(fmaxf(scores[q][0], scores[q][1])));
            // A query that has seen nothing yet has no largest score to subtract.
            const float base = most_now == -INFINITY ? 0.f : most_now;
            const float kept = __expf(most[q] - base);
            most[q] = most_now;
            total[q] *= kept;
#pragma unroll
            for (int p = 0; p < 2; p++) {
                const float weight = __expf(scores[q][p] - base);
                weights[mine + q][lane + p * LANES] = weight;
                total[q] += weight;
            }
#pragma unroll
            for (int at_sum = 0; at_sum < 8; at_sum++) sums[q][at_sum / 4][at_sum % 4] *= kept;
        }
        __syncthreads();
        ahead.put(tile, dim, 1.f);
        if (at + TILE < end) ahead.fetch(dim, [&](int row) { return keys.at(at + TILE + row); });
        __syncthreads();
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int my_dim = (part * LANES + lane) * 4;
            if (my_dim >= dim) continue;
#pragma unroll 2
            for (int p = 0; p < TILE; p += 4) {
                float4 rows[4];
#pragma unroll
                for (int row = 0; row < 4; row++) rows[row] = four(&tile[p + row][my_dim]);
#pragma unroll
                for (int q = 0; q < QUERIES_OF_THREAD; q++) {
                    const float4 w = four(&weights[mine + q][p]);
                    sums[q][part][0] += w.x * rows[0].x + w.y * rows[1].x + w.z * rows[2].x + w.w * rows[3].x;
                    sums[q][part][1] += w.x * rows[0].y + w.y * rows[1].y + w.z * rows[2].y + w.w * rows[3].y;
                    sums[q][part][2] += w.x * rows[0].z + w.y * rows[1].z + w.z * rows[2].z + w.w * rows[3].z;
                    sums[q][part][3] += w.x * rows[0].w + w.y * rows[1].w + w.z * rows[2].w + w.w * rows[3].w;
                }
            }
        }
        // The next tile takes the place of this one.
        __syncthreads();
    }

    const size_t n_slots = (size_t)shape.n_rows * shape.n_heads * shape.n_pieces;
    const int piece = is_tail ? n_of_prefix : blockIdx.x;
#pragma unroll
    for (int q = 0; q < QUERIES_OF_THREAD; q++) {
        const float all = sum_of_lanes(total[q]);
        if (mine + q >= n_queries) continue;
        const size_t row = group.first_row + row_of(mine + q);
        const size_t slot = (row * shape.n_heads + head_of(mine + q)) * shape.n_pieces + piece;
        if (lane == 0) *(float2 *)(pieces + n_slots * dim + slot * 2) = make_float2(most[q], all);
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int my_dim = (part * LANES + lane) * 4;
            if (my_dim < dim)
                four(pieces + slot * dim + my_dim) = make_float4(sums[q][part][0], sums[q][part][1], sums[q][part][2], sums[q][part][3]);
        }
    }
}

// A warp for each head of each row.
template <typename T>
__device__ void merge(const float *pieces, T *output /* (rows, n_heads, dim) */, const Groups &groups, Shape shape) {
    const Group &group = groups.of[blockIdx.y];
    const int row = blockIdx.x, head = blockIdx.z * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, dim = shape.dim;
    if (row >= group.n_rows || head >= shape.n_heads) return;
    const int n_pieces = pieces_of(group.n_prefix + (group.is_prompt ? row : 0)) + (group.is_prompt ? 0 : 1);
    const size_t of_row = (size_t)(group.first_row + row) * shape.n_heads + head, first = of_row * shape.n_pieces;
    const float2 *ends = (const float2 *)(pieces + (size_t)shape.n_rows * shape.n_heads * shape.n_pieces * dim) + first;
    float most = -INFINITY;
    for (int piece = 0; piece < n_pieces; piece++) most = fmaxf(most, ends[piece].x);
    float total = 0.f, sums[DIM_MAX / 32] = {};
    for (int piece = 0; piece < n_pieces; piece++) {
        const float share = __expf(ends[piece].x - most);
        total += share * ends[piece].y;
#pragma unroll
        for (int part = 0; part < DIM_MAX / 32; part++) {
            const int at = part * 32 + lane;
            if (at < dim) sums[part] += share * pieces[(first + piece) * dim + at];
        }
    }
#pragma unroll
    for (int part = 0; part < DIM_MAX / 32; part++) {
        const int at = part * 32 + lane;
        if (at < dim) output[of_row * dim + at] = rounded<T>(sums[part] / total);
    }
}

#define ATTEND(SUFFIX, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) attend_##SUFFIX(                                                    \
        const T *query, const T *key, const T *value, float *pieces, const __grid_constant__ Groups groups, Shape shape         \
    ) {                                                                                                                          \
        attend<T>(query, key, value, pieces, groups, shape);                                                                     \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) merge_##SUFFIX(                                                        \
        const float *pieces, T *output, const __grid_constant__ Groups groups, Shape shape                                      \
    ) {                                                                                                                          \
        merge<T>(pieces, output, groups, shape);                                                                                 \
    }

ATTEND(f32, float)
ATTEND(f16, __half)
ATTEND(bf16, __nv_bfloat16)
