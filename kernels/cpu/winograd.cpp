// 3x3 convolution, stride 1, zero padding 1, float32, NHWC: direct, or by Winograd's F(2x2,3x3) and F(4x4,3x3), with what
// surrounds it in the blocks of a convolutional diffusion network:
//
//     y = (conv(act(norm(x) * (1 + scale) + shift)) + bias) * gate + residual
//
// norm is a group norm, act the exact GELU; each part but the convolution is left out where its pointer is null. The
// algorithm is that of Lavin and Gray, arXiv:1509.09308: Y = A^T [(G g G^T) . (B^T d B)] A. F(4x4) interpolates at 0,
// +-sqrt(1/2), +-sqrt(2) and infinity, whose matrices are better conditioned than those of 0, +-1, +-2 and infinity.
//
// A block of tiles goes through three buffers that fit the second-level cache: P, the activated input with its borders
// of zeros; V, its transform, [point][tile][channel]; C, the products, [point][tile][2 vectors of output channels].
// Every number of the output is made by the same operations in the same order whatever the threads and blocks.
//
// One source for all processors: the compiler's vectors of LANES floats, named by the build (see compiled.py), which
// also says how many rows the matrix product keeps in registers (ROWS x 2 vectors).
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define RESTRICT __restrict__
#define INLINE static inline __attribute__((always_inline))

namespace {

typedef int64_t Size;
typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
constexpr Size WIDE = 2 * LANES;  // output channels of one group

INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
INLINE void store(float* p, Vector value) { *reinterpret_cast<Unaligned*>(p) = value; }
INLINE Size ceil_div(Size a, Size b) { return (a + b - 1) / b; }
INLINE Size round_up(Size a, Size b) { return ceil_div(a, b) * b; }

INLINE Vector load_some(const float* p, Size count) {
    if (count >= LANES) return load(p);
    Vector value = {};
    std::memcpy(&value, p, size_t(count) * sizeof(float));
    return value;
}
INLINE void store_some(float* p, Vector value, Size count) {
    if (count >= LANES) return store(p, value);
    std::memcpy(p, &value, size_t(count) * sizeof(float));
}

// The matrices of F(MxM,3x3), M = 2 and 4, applied to vectors.
template <int M> struct Transform;

template <> struct Transform<2> {
    static constexpr int N = 4;
    static constexpr double G[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
    INLINE void input(const Vector* d, Vector* v) {
        v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
    }
    INLINE void output(const Vector* m, Vector* y) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
};

template <> struct Transform<4> {
    static constexpr int N = 6;
    static constexpr double A = 0.70710678118654752440, B = 1.41421356237309504880;  // the points +-A, +-B
    static constexpr double G[6][3] = {{1, 0, 0},
                                       {-1 / 1.5, -A / 1.5, -.5 / 1.5},
                                       {-1 / 1.5, A / 1.5, -.5 / 1.5},
                                       {1 / 6., B / 6., 2 / 6.},
                                       {1 / 6., -B / 6., 2 / 6.},
                                       {0, 0, 1}};
    INLINE void input(const Vector* d, Vector* v) {
        const Vector even1 = d[4] - 2.f * d[2], odd1 = float(A) * (d[3] - 2.f * d[1]);
        const Vector even2 = d[4] - .5f * d[2], odd2 = float(B) * (d[3] - .5f * d[1]);
        v[0] = d[0] + d[4] - 2.5f * d[2];
        v[1] = even1 + odd1, v[2] = even1 - odd1, v[3] = even2 + odd2, v[4] = even2 - odd2;
        v[5] = d[1] + d[5] - 2.5f * d[3];
    }
    INLINE void output(const Vector* m, Vector* y) {
        const Vector even1 = m[1] + m[2], odd1 = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
        y[0] = m[0] + even1 + even2;
        y[1] = float(A) * odd1 + float(B) * odd2;
        y[2] = .5f * even1 + 2.f * even2;
        y[3] = float(A * A * A) * odd1 + float(B * B * B) * odd2 + m[5];
    }
};

// Packed weights, [group][point][channel][WIDE]: contiguous for the product below, zero beyond the last channel.
template <int M> void pack_winograd(const float* weight, float* packed, Size O, Size I) {
    constexpr int N = Transform<M>::N;
    const auto& G = Transform<M>::G;
#pragma omp parallel for schedule(static)
    for (Size o = 0; o < round_up(O, WIDE); o++)
        for (Size i = 0; i < I; i++) {
            double rows[N][3] = {};
            const float* g = weight + (o * I + i) * 9;
            for (int r = 0; r < N && o < O; r++)
                for (int c = 0; c < 3; c++) rows[r][c] = G[r][0] * g[c] + G[r][1] * g[3 + c] + G[r][2] * g[6 + c];
            for (int r = 0; r < N; r++)
                for (int s = 0; s < N; s++)
                    packed[(((o / WIDE) * N * N + r * N + s) * I + i) * WIDE + o % WIDE] =
                        float(rows[r][0] * G[s][0] + rows[r][1] * G[s][1] + rows[r][2] * G[s][2]);
        }
}

// The same for direct convolution, [group][row][column][channel, rounded up][WIDE].
void pack_direct(const float* weight, float* packed, Size O, Size I) {
    const Size wide = round_up(I, LANES);
    std::memset(packed, 0, size_t(round_up(O, WIDE) * 9 * wide) * sizeof(float));
    for (Size o = 0; o < O; o++)
        for (Size i = 0; i < I; i++)
            for (Size k = 0; k < 9; k++)
                packed[(((o / WIDE) * 9 + k) * wide + i) * WIDE + o % WIDE] = weight[(o * I + i) * 9 + k];
}

// c[R][WIDE] = a[R][K] * b[K][WIDE], added to c if ADD. Accumulators are variables of their own, as GCC keeps an array
// in memory. FETCH: read the next panel ahead, which lies behind this one.
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)
template <int R, bool ADD, bool FETCH>
__attribute__((noinline)) void product(const float* RESTRICT a, Size stride, const float* RESTRICT b, Size K,
                                       float* RESTRICT c) {
#define DECLARE(r) Vector c##r##0 = {}, c##r##1 = {};
    EACH_ROW(DECLARE)
#define READ(r) if constexpr (ADD && R > r) c##r##0 = load(c + r * WIDE), c##r##1 = load(c + r * WIDE + LANES);
    EACH_ROW(READ)
    const float* bases[5];
    for (int i = 0; i < 5; i++) bases[i] = R > 3 * i ? a + 3 * i * stride : a;
    const float *a0 = bases[0], *a1 = bases[1], *a2 = bases[2], *a3 = bases[3], *a4 = bases[4];
    for (Size k = 0; k < K; k++) {
        const Vector b0 = load(b), b1 = load(b + LANES);
        if constexpr (FETCH)
            for (Size line = 0; line < WIDE; line += 16) __builtin_prefetch(b + K * WIDE + line, 0, 2);
        b += WIDE;
#define BASE(r) ((r) / 3 == 0 ? a0 : (r) / 3 == 1 ? a1 : (r) / 3 == 2 ? a2 : (r) / 3 == 3 ? a3 : a4)
#define MULTIPLY(r)                                       \
    if constexpr (R > r) {                                \
        const float value = BASE(r)[k + (r % 3) * stride]; \
        c##r##0 += value * b0, c##r##1 += value * b1;     \
    }
        EACH_ROW(MULTIPLY)
    }
#define WRITE(r) if constexpr (R > r) store(c + r * WIDE, c##r##0), store(c + r * WIDE + LANES, c##r##1);
    EACH_ROW(WRITE)
}

// The same for any number of rows, in nearly equal parts.
template <bool ADD> void products(const float* a, Size stride, const float* b, Size K, float* c, Size rows) {
    const Size parts = ceil_div(rows, ROWS);
    for (Size part = 0, done = 0; part < parts; part++) {
        const Size next = rows * (part + 1) / parts, count = next - done;
        const float* from = a + done * stride;
        float* to = c + done * WIDE;
        switch (count) {
#define CASE(r)                                                             \
    case r + 1:                                                             \
        if constexpr (r < ROWS) {                                           \
            if (part == 0) product<r + 1, ADD, true>(from, stride, b, K, to); \
            else product<r + 1, ADD, false>(from, stride, b, K, to);        \
        }                                                                   \
        break;
            EACH_ROW(CASE)
        }
        done = next;
    }
}

// erf(x / sqrt(2)) = x P(x^2) / Q(x^2) for |x| <= 5.6, beyond which it is 1 in float32. Coefficients, highest power
// first: a weighted least-squares fit on Chebyshev points, error 2e-9 before rounding.
constexpr float GELU_END = 5.6f;
constexpr float GELU_P[] = {-1.493522185e-10f, 1.050080431e-07f, 1.686645472e-05f, 3.391061522e-04f,
                            9.600538146e-03f,  6.530583930e-02f, 7.978845710e-01f};
constexpr float GELU_Q[] = {1.991925858e-06f, 8.172335879e-05f, 1.930478294e-03f,
                            2.845150442e-02f, 2.485155002e-01f, 1.f};
INLINE Vector gelu(Vector x) {
    const Vector end = Vector{} + GELU_END, z = x > end ? end : (x < -end ? -end : x), s = z * z;
    Vector p = Vector{} + GELU_P[0], q = Vector{} + GELU_Q[0];
    for (int i = 1; i < 7; i++) p = p * s + GELU_P[i];
    for (int i = 1; i < 6; i++) q = q * s + GELU_Q[i];
    return .5f * x * (1.f + z * p / q);
}

}  // namespace

// Everything that a call needs. Null pointers leave their part out. Numbers of floats between images in stride_*.
struct Call {
    const float *x, *packed, *bias, *gamma, *beta, *scale, *shift, *gate, *residual;
    float* y;
    int64_t B, H, W, I, O;
    int64_t stride_scale, stride_shift, stride_gate;
    int64_t groups, gelu, kind, threads, cache;
    double eps;
};

namespace {

// Memory for buffers, kept from call to call: one for each thread that calls.
struct Scratch {
    float* data = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(data); }
    float* take(Size floats) {
        const size_t bytes = size_t(round_up(floats, 1024)) * sizeof(float);
        if (bytes > size) {
            std::free(data);
            data = static_cast<float*>(std::aligned_alloc(4096, bytes));
            size = data ? bytes : 0;
        }
        return data;
    }
};
thread_local Scratch scratch;

// A rectangle of tiles: of images b0 to b1, rows y0 to y1 and columns x0 to x1 of tiles.
struct Block {
    Size b0, b1, y0, y1, x0, x1;
    Size rows() const { return y1 - y0; }
    Size columns() const { return x1 - x0; }
    Size tiles() const { return (b1 - b0) * rows() * columns(); }
};

// The blocks of a call: of about ``most`` tiles each, and where possible a multiple of the threads.
struct Blocks {
    Size B, down, across;  // images, rows and columns of tiles
    Size images, rows, columns;
    Blocks(const Call& c, Size M, Size most) : B(c.B), down(ceil_div(c.H, M)), across(ceil_div(c.W, M)) {
        const Size whole = down * across;
        if (whole <= most) {
            images = std::min(B, most / whole), rows = down, columns = across;
            images = ceil_div(B, ceil_div(B, images));
            for (Size fewer = images; fewer >= 1 && 2 * fewer > images; fewer--)
                if (ceil_div(B, fewer) % c.threads == 0) { images = fewer; break; }
        } else {
            images = 1;
            columns = ceil_div(across, ceil_div(across, most));
            rows = std::max<Size>(1, most / columns);
            rows = ceil_div(down, ceil_div(down, std::min(rows, down)));
            for (Size fewer = rows; fewer >= 1 && 2 * fewer > rows; fewer--)
                if (B * ceil_div(down, fewer) * ceil_div(across, columns) % c.threads == 0) { rows = fewer; break; }
        }
    }
    Size count() const { return ceil_div(B, images) * ceil_div(down, rows) * ceil_div(across, columns); }
    Block at(Size index) const {
        const Size wide = ceil_div(across, columns), high = ceil_div(down, rows);
        const Size x = index % wide * columns, y = index / wide % high * rows, b = index / wide / high * images;
        return {b, std::min(B, b + images), y, std::min(down, y + rows), x, std::min(across, x + columns)};
    }
    Size most_tiles() const { return images * rows * columns; }
};

// Factor and offset of each image and channel that group norm and modulation come to, [image][2][channel].
// The sums are those of differences from the first pixel, so that a large mean costs no digits; they are taken over
// fixed parts of an image and added in a fixed order.
constexpr Size PARTS = 8;
void affine(const Call& c, Size wide, float* factors, float* sums) {
    const Size per = ceil_div(c.H, PARTS), width = c.I / c.groups;
#pragma omp parallel for num_threads(int(c.threads)) schedule(static)
    for (Size unit = 0; unit < c.B * PARTS; unit++) {
        const Size b = unit / PARTS, from = std::min(c.H, unit % PARTS * per), to = std::min(c.H, from + per);
        const float *pivot = c.x + b * c.H * c.W * c.I, *begin = pivot + from * c.W * c.I;
        float *first = sums + unit * 2 * wide, *second = first + wide;
        for (Size i = 0; i < c.I; i += WIDE) {
            const Size n0 = c.I - i, n1 = n0 - LANES;
            const Vector p0 = load_some(pivot + i, n0), p1 = n1 > 0 ? load_some(pivot + i + LANES, n1) : Vector{};
            Vector s0 = {}, s1 = {}, q0 = {}, q1 = {};
            const float* at = begin + i;
            for (Size pixel = 0; pixel < (to - from) * c.W; pixel++, at += c.I) {
                const Vector d0 = load_some(at, n0) - p0;
                s0 += d0, q0 += d0 * d0;
                if (n1 > 0) {
                    const Vector d1 = load_some(at + LANES, n1) - p1;
                    s1 += d1, q1 += d1 * d1;
                }
            }
            store(first + i, s0), store(second + i, q0);
            if (n1 > 0) store(first + i + LANES, s1), store(second + i + LANES, q1);
        }
    }
    const double n = double(c.H) * double(c.W);
#pragma omp parallel for num_threads(int(c.threads)) schedule(static)
    for (Size b = 0; b < c.B; b++) {
        const float *pivot = c.x + b * c.H * c.W * c.I, *parts = sums + b * PARTS * 2 * wide;
        float* factor = factors + b * 2 * wide;
        std::memset(factor, 0, size_t(2 * wide) * sizeof(float));
        for (Size from = 0; from < c.I; from += width) {
            double mean = 0, square = 0;  // of the group; of a channel: own, and the sum of squares about it
            for (Size i = from; i < from + width; i++) {
                double s = 0;
                for (Size part = 0; part < PARTS; part++) s += double(parts[part * 2 * wide + i]);
                mean += double(pivot[i]) + s / n;
            }
            mean /= double(width);
            for (Size i = from; i < from + width; i++) {
                double s = 0, q = 0;
                for (Size part = 0; part < PARTS; part++)
                    s += double(parts[part * 2 * wide + i]), q += double(parts[part * 2 * wide + wide + i]);
                const double off = double(pivot[i]) - mean;  // of (x - mean)^2 = (d + off)^2, d the difference summed
                square += q + 2 * off * s + n * off * off;
            }
            const double inverse = 1 / std::sqrt(square / (n * double(width)) + c.eps);
            for (Size i = from; i < from + width; i++) {
                const double gain = inverse * double(c.gamma[i]);
                const double more = c.scale ? 1 + double(c.scale[b * c.stride_scale + i]) : 1;
                const double add = c.shift ? double(c.shift[b * c.stride_shift + i]) : 0;
                factor[i] = float(gain * more);
                factor[wide + i] = float((double(c.beta[i]) - mean * gain) * more + add);
            }
        }
    }
}

// One row of P: the activated pixels of image row y from column x on, zeros outside of the image.
void activate(const Call& c, const float* factors, Size wide, Size b, Size y, Size x, Size count, float* to) {
    for (Size i = 0; i < count; i++, to += wide) {
        const Size column = x + i;
        if (y < 0 || y >= c.H || column < 0 || column >= c.W) {
            std::memset(to, 0, size_t(wide) * sizeof(float));
            continue;
        }
        const float* from = c.x + ((b * c.H + y) * c.W + column) * c.I;
        const float* factor = factors + b * 2 * wide;
        for (Size k = 0; k < wide; k += LANES) {
            Vector value = load_some(from + k, c.I - k);
            if (c.gamma) value = value * load(factor + k) + load(factor + wide + k);
            if (c.gelu) value = gelu(value);
            store(to + k, value);
        }
    }
}

// The pixel (b, y, x) of the output, for the output channels from o on.
INLINE void finish(const Call& c, Size b, Size y, Size x, Size o, Vector value) {
    const Size count = c.O - o;
    if (count <= 0) return;
    const Size at = ((b * c.H + y) * c.W + x) * c.O + o;
    if (c.bias) value += load_some(c.bias + o, count);
    if (c.gate) value *= load_some(c.gate + b * c.stride_gate + o, count);
    if (c.residual) value += load_some(c.residual + at, count);
    store_some(c.y + at, value, count);
}

// What direct convolution and both Winograd algorithms share: blocks, threads and buffers.
// M: output pixels of a tile along a side.
template <int M> struct Work {
    static constexpr bool WINOGRAD = M > 1;
    static constexpr Size N = M + 2, POINTS = WINOGRAD ? N * N : 1;
    const Call& c;
    const Size wide = round_up(c.I, LANES), groups = ceil_div(c.O, WIDE);
    const Size v_stride = wide + (wide * 4 % 1024 ? 0 : LANES);  // rows of a product must not share cache sets
    float *factors = nullptr, *P = nullptr, *V = nullptr, *C = nullptr;

    // Floats from one point of V or C to the next: an odd number of cache lines, so that the points of a tile, which are
    // read and written together, do not share a few sets of the cache.
    static Size odd_lines(Size floats) { return (ceil_div(floats, 16) | 1) * 16; }
    Size v_apart(Size tiles) const { return odd_lines(tiles * v_stride); }
    static Size c_apart(Size tiles) { return odd_lines(tiles * WIDE); }

    Size p_size(const Blocks& of) const { return of.images * (of.rows * M + 2) * (of.columns * M + 2) * wide; }

    Size p_row(const Block& k) const { return (k.columns() * M + 2) * wide; }
    void fill_p(const Block& k, Size row, float* p) const {  // row: of all images of the block
        const Size high = k.rows() * M + 2, b = k.b0 + row / high, y = k.y0 * M - 1 + row % high;
        activate(c, factors, wide, b, y, k.x0 * M - 1, k.columns() * M + 2, p + row * p_row(k));
    }
    Size p_rows(const Block& k) const { return (k.b1 - k.b0) * (k.rows() * M + 2); }

    void fill_v(const Block& k, Size tile, const float* p, float* v) const {
        const Size b = tile / (k.rows() * k.columns()), row = tile / k.columns() % k.rows(), x = tile % k.columns();
        const float* from = p + (b * (k.rows() * M + 2) + row * M) * p_row(k) + x * M * wide;
        const Size down = p_row(k), apart = v_apart(k.tiles());
        float* to = v + tile * v_stride;
        for (Size i = 0; i < wide; i += LANES) {
            Vector t[N][N];
            for (Size s = 0; s < N; s++) {
                Vector d[N], o[N];
                for (Size r = 0; r < N; r++) d[r] = load(from + r * down + s * wide + i);
                Transform<M>::input(d, o);
                for (Size r = 0; r < N; r++) t[r][s] = o[r];
            }
            for (Size r = 0; r < N; r++) {
                Vector o[N];
                Transform<M>::input(t[r], o);
                for (Size s = 0; s < N; s++) store(to + (r * N + s) * apart + i, o[s]);
            }
        }
    }

    void multiply(const Block& k, Size group, Size point, const float* v, float* to) const {
        const float* weights = c.packed + (group * POINTS + point) * c.I * WIDE;
        const Size tiles = k.tiles();
        products<false>(v + point * v_apart(tiles), v_stride, weights, c.I, to + point * c_apart(tiles), tiles);
    }

    void write_tile(const Block& k, Size group, Size tile, const float* from) const {
        const Size b = k.b0 + tile / (k.rows() * k.columns());
        const Size y = (k.y0 + tile / k.columns() % k.rows()) * M, x = (k.x0 + tile % k.columns()) * M;
        const Size apart = c_apart(k.tiles());
        from += tile * WIDE;
        // The tile to the right is next; its pixels lie too far apart for the processor to guess.
        for (Size r = 0; r < M && y + r < c.H; r++)
            for (Size s = M; s < 2 * M && x + s < c.W; s++) {
                const Size at = ((b * c.H + y + r) * c.W + x + s) * c.O + group * WIDE;
                for (Size line = 0; line < WIDE; line += 16) {
                    __builtin_prefetch(c.y + at + line, 1);
                    if (c.residual) __builtin_prefetch(c.residual + at + line);
                }
            }
        for (Size half = 0; half < WIDE; half += LANES) {
            Vector t[M][N];
            for (Size s = 0; s < N; s++) {
                Vector m[N], o[M];
                for (Size r = 0; r < N; r++) m[r] = load(from + (r * N + s) * apart + half);
                Transform<M>::output(m, o);
                for (Size r = 0; r < M; r++) t[r][s] = o[r];
            }
            for (Size r = 0; r < M && y + r < c.H; r++) {
                Vector o[M];
                Transform<M>::output(t[r], o);
                for (Size s = 0; s < M && x + s < c.W; s++) finish(c, b, y + r, x + s, group * WIDE + half, o[s]);
            }
        }
    }

    // Direct: the products of one row of pixels with the three rows of weights, each [3 * wide][WIDE].
    void direct_row(const Block& k, Size group, Size row, const float* p, float* to) const {
        const Size b = row / k.rows(), y = row % k.rows();
        const float* weights = c.packed + group * 9 * wide * WIDE;
        for (Size r = 0; r < 3; r++) {
            const float* from = p + (b * (k.rows() + 2) + y + r) * p_row(k);
            const float* panel = weights + r * 3 * wide * WIDE;
            if (r == 0) products<false>(from, wide, panel, 3 * wide, to, k.columns());
            else products<true>(from, wide, panel, 3 * wide, to, k.columns());
        }
        for (Size x = 0; x < k.columns(); x++)
            for (Size half = 0; half < WIDE; half += LANES)
                finish(c, k.b0 + b, k.y0 + y, k.x0 + x, group * WIDE + half, load(to + x * WIDE + half));
    }

    // A block by one thread.
    void alone(const Block& k, float* p, float* v, float* to) const {
        for (Size row = 0; row < p_rows(k); row++) fill_p(k, row, p);
        if constexpr (WINOGRAD)
            for (Size tile = 0; tile < k.tiles(); tile++) fill_v(k, tile, p, v);
        for (Size group = 0; group < groups; group++) {
            if constexpr (WINOGRAD) {
                for (Size point = 0; point < POINTS; point++) multiply(k, group, point, v, to);
                for (Size tile = 0; tile < k.tiles(); tile++) write_tile(k, group, tile, to);
            } else {
                for (Size row = 0; row < (k.b1 - k.b0) * k.rows(); row++) direct_row(k, group, row, p, to);
            }
        }
    }

    // A block by all threads, for where there are fewer blocks than threads.
    void together(const Block& k) const {
        const Size points = POINTS * c_apart(k.tiles()), rows = (k.b1 - k.b0) * k.rows();
#pragma omp parallel num_threads(int(c.threads))
        {
#pragma omp for schedule(static)
            for (Size row = 0; row < p_rows(k); row++) fill_p(k, row, P);
            if constexpr (WINOGRAD) {
#pragma omp for schedule(static)
                for (Size tile = 0; tile < k.tiles(); tile++) fill_v(k, tile, P, V);
#pragma omp for schedule(static)
                for (Size unit = 0; unit < groups * POINTS; unit++)
                    multiply(k, unit / POINTS, unit % POINTS, V, C + unit / POINTS * points);
#pragma omp for schedule(static)
                for (Size unit = 0; unit < groups * k.tiles(); unit++)
                    write_tile(k, unit / k.tiles(), unit % k.tiles(), C + unit / k.tiles() * points);
            } else {
#pragma omp for schedule(static)
                for (Size unit = 0; unit < groups * rows; unit++)
                    direct_row(k, unit / rows, unit % rows, P, C + omp_get_thread_num() * k.columns() * WIDE);
            }
        }
    }

    int run() {
        const Size a_tile = WINOGRAD ? POINTS * v_stride * 4 : wide * 4;
        const Blocks blocks(c, M, std::max<Size>(12, c.cache / a_tile));
        const bool split = blocks.count() < c.threads;
        const Size tiles = blocks.most_tiles();
        const Size p = round_up(p_size(blocks), 16), v = WINOGRAD ? POINTS * v_apart(tiles) : 0;
        const Size products = WINOGRAD ? POINTS * c_apart(tiles) * (split ? groups : 1)
                                       : blocks.columns * WIDE * (split ? c.threads : 1);
        const Size each = p + v + round_up(products, 16);
        const Size norm = c.gamma ? round_up(c.B * 2 * wide, 16) : 0, sums = c.gamma ? c.B * PARTS * 2 * wide : 0;
        float* memory = scratch.take(each * (split ? 1 : c.threads) + norm + sums);
        if (!memory) return 1;
        factors = memory;
        if (c.gamma) affine(c, wide, factors, memory + norm);
        float* buffers = memory + norm + sums;
        P = buffers, V = P + p, C = V + v;
        if (split) {
            for (Size index = 0; index < blocks.count(); index++) together(blocks.at(index));
            return 0;
        }
#pragma omp parallel for num_threads(int(c.threads)) schedule(static)
        for (Size index = 0; index < blocks.count(); index++) {
            float* own = buffers + each * omp_get_thread_num();
            alone(blocks.at(index), own, own + p, own + p + v);
        }
        return 0;
    }
};

}  // namespace

// kind: 4 or 2 for F(4x4,3x3) or F(2x2,3x3), 1 for direct convolution.
extern "C" {
int64_t packed_size(int64_t kind, int64_t O, int64_t I) {
    const Size points = kind == 4 ? 36 : kind == 2 ? 16 : 9;
    return round_up(O, WIDE) * points * (kind == 1 ? round_up(I, LANES) : I);
}
void pack(int64_t kind, const float* weight, float* packed, int64_t O, int64_t I) {
    if (kind == 4) pack_winograd<4>(weight, packed, O, I);
    else if (kind == 2) pack_winograd<2>(weight, packed, O, I);
    else pack_direct(weight, packed, O, I);
}
// Returns 0, or 1 where there is no memory for the buffers.
int convolve(const Call* call) {
    if (call->kind == 4) return Work<4>{*call}.run();
    if (call->kind == 2) return Work<2>{*call}.run();
    return Work<1>{*call}.run();
}
}
