// One token for each of many rows through a Llama-like model, in float32 on one thread: what _lean.py does in torch.
//
// A row's arithmetic never looks at another row: the same sums in the same order, whoever sits beside it. Keys and values
// of a prompt are stored once for all its samples; each row keeps only those of its own tokens.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__)
constexpr long LANES = 16, ROWS = 8;
#elif defined(__AVX__)
constexpr long LANES = 8, ROWS = 4;
#else
constexpr long LANES = 4, ROWS = 4;
#endif
constexpr long PANEL = 32;  // columns of a weight matrix that are stored together
constexpr long VECTORS = 2;  // of LANES columns each, that a tile adds up in registers
constexpr long TILE = VECTORS * LANES;
static_assert(PANEL % TILE == 0, "a panel is whole tiles");

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline Vector load(const float* at) { return *reinterpret_cast<const Vector*>(at); }
static inline void store(float* at, Vector v) { *reinterpret_cast<Vector*>(at) = v; }
static inline Vector spread(float x) { return x - Vector{}; }
static inline long whole(long n, long step) { return (n + step - 1) / step * step; }

extern "C" {

struct Layer {
    const float *before, *after;                // norms' weights [hidden]
    const float *qkv, *qkv_bias;                // panels of [hidden, (heads + 2 kv) size]; [.] padded with zeros
    const float *out, *gate_up, *down;          // panels of [heads size, hidden], [hidden, 2 inner], [inner, hidden]
    const float *query_norm, *key_norm;         // [size] or null
};

struct Model {
    int64_t layers, hidden, heads, kv, size, inner, vocabulary;
    const float *embed, *norm, *head;           // [vocabulary, hidden]; [hidden]; panels of [hidden, vocabulary]
    const float *cosine, *sine;                 // [positions, size], the first half of the sines negative
    const float *zeros;                         // [widest product]
    const Layer *each;
    float eps;
};

struct Prompt {                                 // what was read once
    const float *keys, *values;                 // [layers, kv, size, room], [layers, kv, room, size]
    int64_t length, room;
};

struct Step {
    int64_t rows, room;                         // room: tokens that a row's own keys and values have space for
    const int64_t *ids, *positions, *slots;     // [rows]
    const Prompt *prompts;                      // [rows]
    float *keys, *values;                       // [slots, layers, kv, size, room], [slots, layers, kv, room, size]
    float *scratch, *logits;                    // see floats_needed; [rows, vocabulary rounded up to PANEL]
};

}  // extern "C"

// ---------------------------------------------------------------- products

template <long R>
static void tile(const float* x, long x_step, const float* w, long depth, const float* start, long start_step, float* y,
                 long y_step) {
    Vector sum[R][VECTORS];
    for (long r = 0; r < R; ++r)
        for (long v = 0; v < VECTORS; ++v) sum[r][v] = load(start + r * start_step + v * LANES);
    for (long k = 0; k < depth; ++k) {
        Vector column[VECTORS];
        for (long v = 0; v < VECTORS; ++v) column[v] = load(w + k * PANEL + v * LANES);
        for (long r = 0; r < R; ++r) {
            const Vector factor = spread(x[r * x_step + k]);
            for (long v = 0; v < VECTORS; ++v) sum[r][v] += factor * column[v];
        }
    }
    for (long r = 0; r < R; ++r)
        for (long v = 0; v < VECTORS; ++v) store(y + r * y_step + v * LANES, sum[r][v]);
}

// y [rows, columns] = start + x [rows, depth] w; start_step is 0 where start is one row for all.
static void product(const float* x, long x_step, const float* w, long rows, long depth, long columns, const float* start,
                    long start_step, float* y, long y_step) {
    for (long c = 0; c < columns; c += TILE) {
        const float* panel = w + (c / PANEL) * depth * PANEL + c % PANEL;
        long r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            tile<ROWS>(x + r * x_step, x_step, panel, depth, start + r * start_step + c, start_step, y + r * y_step + c, y_step);
        for (; r < rows; ++r)
            tile<1>(x + r * x_step, x_step, panel, depth, start + r * start_step + c, start_step, y + r * y_step + c, y_step);
    }
}

// ---------------------------------------------------------------- elementwise

// exp with a relative error of about 2e-7: Cody and Waite's reduction, a polynomial of degree six.
static inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float n = std::rint(x * 1.44269504f);
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

static void normed(const float* x, const float* weight, long n, float eps, float* y) {
    float sums[16] = {};
    for (long i = 0; i + 16 <= n; i += 16)
        for (long j = 0; j < 16; ++j) sums[j] += x[i + j] * x[i + j];
    float sum = 0;
    for (long i = n / 16 * 16; i < n; ++i) sum += x[i] * x[i];
    for (float part : sums) sum += part;
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
    for (long i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

static void rotate(float* x, const float* cosine, const float* sine, long size) {
    const long half = size / 2;
    for (long i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] + b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
    }
}

// ---------------------------------------------------------------- attention

// scores[t] = query . keys[:, t] for t < length, -infinity up to the next whole vector; returns where that ends.
static long dots(const float* query, const float* keys, long room, long length, long size, float* scores) {
    const long end = whole(length, LANES);
    long t = 0;
    for (; t + 4 * LANES <= end; t += 4 * LANES) {
        Vector sum[4] = {};
        for (long d = 0; d < size; ++d)
            for (long v = 0; v < 4; ++v) sum[v] += spread(query[d]) * load(keys + d * room + t + v * LANES);
        for (long v = 0; v < 4; ++v) store(scores + t + v * LANES, sum[v]);
    }
    for (; t < end; t += LANES) {
        Vector sum = {};
        for (long d = 0; d < size; ++d) sum += spread(query[d]) * load(keys + d * room + t);
        store(scores + t, sum);
    }
    for (t = length; t < end; ++t) scores[t] = -std::numeric_limits<float>::infinity();
    return end;
}

// Scores become weights that are not yet divided by their sum, which is returned.
static float weigh(float* scores, long n) {
    float most[LANES], sums[LANES] = {};
    for (long j = 0; j < LANES; ++j) most[j] = scores[j];
    for (long t = LANES; t < n; t += LANES)
        for (long j = 0; j < LANES; ++j) most[j] = std::max(most[j], scores[t + j]);
    float top = most[0], sum = 0;
    for (float m : most) top = std::max(top, m);
    for (long t = 0; t < n; t += LANES)
        for (long j = 0; j < LANES; ++j) {
            const float weight = exponential(scores[t + j] - top);
            scores[t + j] = weight;
            sums[j] += weight;
        }
    for (float s : sums) sum += s;
    return sum;
}

// out[size] += weights[length] values[length, size]
static void gather(const float* weights, const float* values, long length, long size, float* out) {
    for (long d = 0; d < size; d += LANES) {
        Vector sum[4] = {};
        long t = 0;
        for (; t + 4 <= length; t += 4)
            for (long j = 0; j < 4; ++j) sum[j] += spread(weights[t + j]) * load(values + (t + j) * size + d);
        for (; t < length; ++t) sum[0] += spread(weights[t]) * load(values + t * size + d);
        store(out + d, load(out + d) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    }
}

struct Own {
    const float *keys, *values;
    long length, room;
};

static void attend(const Model& m, const Prompt& prompt, const Own& own, long layer, const float* queries, float* scores,
                   float* out) {
    const long group = m.heads / m.kv, all = prompt.room * m.size, mine = own.room * m.size;
    for (long h = 0; h < m.heads; ++h) {
        const long k = h / group;
        const float *old_keys = prompt.keys + (layer * m.kv + k) * all, *old_values = prompt.values + (layer * m.kv + k) * all;
        const float *keys = own.keys + k * mine, *values = own.values + k * mine;
        const float* query = queries + h * m.size;
        const long first = dots(query, old_keys, prompt.room, prompt.length, m.size, scores);
        const long last = first + dots(query, keys, own.room, own.length, m.size, scores + first);
        const float sum = weigh(scores, last);
        float* seen = out + h * m.size;
        std::fill(seen, seen + m.size, 0.0f);
        gather(scores, old_values, prompt.length, m.size, seen);
        gather(scores + first, values, own.length, m.size, seen);
        for (long d = 0; d < m.size; ++d) seen[d] /= sum;
    }
}

// ---------------------------------------------------------------- a step

struct Widths {
    long hidden, qkv, seen, gate_up;
    explicit Widths(const Model& m)
        : hidden(whole(m.hidden, PANEL)), qkv(whole((m.heads + 2 * m.kv) * m.size, PANEL)), seen(m.heads * m.size),
          gate_up(whole(2 * m.inner, PANEL)) {}
    long wide() const { return std::max(qkv, gate_up); }
    long narrow() const { return std::max({hidden, seen, gate_up / 2 + 1}); }
};

// Queries and keys to their positions, and keys and values to where they are kept.
static void place(const Model& m, const Layer& layer, const Step& s, long number, long row, float* qkv) {
    const float* cosine = m.cosine + s.positions[row] * m.size;
    const float* sine = m.sine + s.positions[row] * m.size;
    for (long h = 0; h < m.heads + m.kv; ++h) {
        float* x = qkv + h * m.size;
        const float* norm = h < m.heads ? layer.query_norm : layer.key_norm;
        if (norm) normed(x, norm, m.size, m.eps, x);
        rotate(x, cosine, sine, m.size);
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(m.size));
    for (long i = 0; i < m.heads * m.size; ++i) qkv[i] *= scale;
    const long at = s.positions[row] - s.prompts[row].length;
    const long start = (s.slots[row] * m.layers + number) * m.kv * m.size * s.room;
    const float *k = qkv + m.heads * m.size, *v = k + m.kv * m.size;
    for (long h = 0; h < m.kv; ++h) {
        float *keys = s.keys + start + h * m.size * s.room, *values = s.values + start + (h * s.room + at) * m.size;
        for (long d = 0; d < m.size; ++d) keys[d * s.room + at] = k[h * m.size + d];
        std::memcpy(values, v + h * m.size, m.size * sizeof(float));
    }
}

extern "C" {

int64_t panel() { return PANEL; }
int64_t lanes() { return LANES; }

int64_t floats_needed(const Model* m, int64_t rows, int64_t context) {
    const Widths w(*m);
    return rows * (w.hidden + w.narrow() + w.wide()) + context + 4 * LANES;
}

void step(const Model* model, const Step* given) {
    const Model& m = *model;
    const Step& s = *given;
    const Widths w(m);
    const long narrow = w.narrow(), wide = w.wide();
    float* x = s.scratch;
    float* y = x + s.rows * w.hidden;
    float* z = y + s.rows * narrow;
    float* scores = z + s.rows * wide;
    for (long r = 0; r < s.rows; ++r) {
        std::memcpy(x + r * w.hidden, m.embed + s.ids[r] * m.hidden, m.hidden * sizeof(float));
        std::fill(x + r * w.hidden + m.hidden, x + (r + 1) * w.hidden, 0.0f);
    }
    for (long number = 0; number < m.layers; ++number) {
        const Layer& layer = m.each[number];
        for (long r = 0; r < s.rows; ++r) normed(x + r * w.hidden, layer.before, m.hidden, m.eps, y + r * narrow);
        product(y, narrow, layer.qkv, s.rows, m.hidden, w.qkv, layer.qkv_bias, 0, z, wide);
        for (long r = 0; r < s.rows; ++r) {
            place(m, layer, s, number, r, z + r * wide);
            const long start = (s.slots[r] * m.layers + number) * m.kv * m.size * s.room;
            const Own own{s.keys + start, s.values + start, s.positions[r] - s.prompts[r].length + 1, s.room};
            attend(m, s.prompts[r], own, number, z + r * wide, scores, y + r * narrow);
        }
        product(y, narrow, layer.out, s.rows, w.seen, w.hidden, x, w.hidden, x, w.hidden);
        for (long r = 0; r < s.rows; ++r) normed(x + r * w.hidden, layer.after, m.hidden, m.eps, y + r * narrow);
        product(y, narrow, layer.gate_up, s.rows, m.hidden, w.gate_up, m.zeros, 0, z, wide);
        for (long r = 0; r < s.rows; ++r) {
            const float *gate = z + r * wide, *up = gate + m.inner;
            float* both = y + r * narrow;
            for (long i = 0; i < m.inner; ++i) both[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
        }
        product(y, narrow, layer.down, s.rows, m.inner, w.hidden, x, w.hidden, x, w.hidden);
    }
    for (long r = 0; r < s.rows; ++r) normed(x + r * w.hidden, m.norm, m.hidden, m.eps, y + r * narrow);
    const long columns = whole(m.vocabulary, PANEL);
    product(y, narrow, m.head, s.rows, m.hidden, columns, m.zeros, 0, s.logits, columns);
}

}  // extern "C"
