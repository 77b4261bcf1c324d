// Runs the kernel of 3x3 convolutions under AddressSanitizer and UBSan: every kind over odd shapes and numbers of
// threads, with arrays of exactly their sizes, compared with direct convolution in double precision.
#include "winograd.cpp"

#include <cstdio>
#include <memory>

static uint32_t state = 1;
static uint32_t draw() { return state = state * 1664525u + 1013904223u; }
static double normal() { return double(draw() >> 8) / double(1 << 24) * 2 - 1; }

// An array on the heap of its own, so that one number too many is found.
struct Array {
    std::unique_ptr<float[]> data;
    explicit Array(int64_t size, bool filled = true) : data(new float[size_t(size)]) {
        for (int64_t i = 0; i < size; i++) data[size_t(i)] = filled ? float(normal()) : NAN;
    }
    operator float*() { return data.get(); }
};

int main() {
    double worst = 0;
    const int64_t shapes[][5] = {{1, 1, 1, 1, 1},   {2, 3, 5, 7, 2},    {1, 9, 13, 17, 33}, {3, 8, 8, 16, 40},
                                 {5, 4, 6, 35, 31}, {1, 30, 2, 48, 65}, {2, 1, 50, 20, 1},  {9, 12, 12, 8, 70}};
    int64_t number = 0;
    for (const auto& [B, H, W, I, O] : shapes)
        for (int64_t kind : {1, 2, 4})
            for (int64_t threads : {1, 2, 5}) {
                Array x(B * H * W * I), weight(O * I * 9), bias(O), gate(B * O), residual(B * H * W * O);
                Array gamma(I), beta(I), scale(B * I), shift(B * I), y(B * H * W * O, false);
                Array packed(packed_size(kind, O, I), false);
                pack(kind, weight, packed, O, I);
                const bool norm = number % 2 == 0 && H * W > 1, all = number++ % 3 == 0;
                Call call{};
                call.x = x, call.packed = packed, call.y = y;
                if (all) call.bias = bias, call.gate = gate, call.residual = residual;
                if (norm) call.gamma = gamma, call.beta = beta, call.scale = scale, call.shift = shift;
                call.B = B, call.H = H, call.W = W, call.I = I, call.O = O;
                call.stride_scale = call.stride_shift = I, call.stride_gate = O, call.groups = 1, call.gelu = norm;
                call.kind = kind, call.threads = threads, call.cache = number % 2 ? 1 : 1 << 19, call.eps = 1e-5;
                if (convolve(&call)) return 2;
                double off = 0, size = 0;
                for (int64_t b = 0; b < B; b++) {
                    double mean = 0, square = 0, n = double(H * W * I);
                    const float* image = x + b * H * W * I;
                    for (int64_t i = 0; i < H * W * I; i++) mean += double(image[i]) / n;
                    for (int64_t i = 0; i < H * W * I; i++) square += std::pow(double(image[i]) - mean, 2) / n;
                    for (int64_t h = 0; h < H; h++)
                        for (int64_t w = 0; w < W; w++)
                            for (int64_t o = 0; o < O; o++) {
                                double sum = call.bias ? double(bias[o]) : 0;
                                for (int64_t r = -1; r < 2; r++)
                                    for (int64_t s = -1; s < 2; s++)
                                        for (int64_t i = 0; i < I; i++) {
                                            if (h + r < 0 || h + r >= H || w + s < 0 || w + s >= W) continue;
                                            double v = double(image[((h + r) * W + w + s) * I + i]);
                                            if (norm) {
                                                v = (v - mean) / std::sqrt(square + 1e-5) * double(gamma[i]) + double(beta[i]);
                                                v = v * (1 + double(scale[b * I + i])) + double(shift[b * I + i]);
                                                v = v / 2 * (1 + std::erf(v / std::sqrt(2.0)));
                                            }
                                            sum += v * double(weight[((o * I + i) * 3 + r + 1) * 3 + s + 1]);
                                        }
                                const int64_t at = ((b * H + h) * W + w) * O + o;
                                if (all) sum = sum * double(gate[b * O + o]) + double(residual[at]);
                                off += std::pow(sum - double(y[at]), 2), size += sum * sum;
                            }
                }
                const double error = std::sqrt(off / size);
                if (!(error <= worst)) worst = error;
            }
    std::printf("worst relative error %g\n", worst);
    return 0;
}
