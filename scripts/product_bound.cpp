// The 1x1 products of a network with the matrix product of convbench's own engine, and nothing else: what is left out
// (norms, depthwise convolutions, activations) could only make it slower. scripts/product_bound.py builds and times it.
#include "winograd.cpp"

struct Product {
    const float *a, *b;
    float* c;
    int64_t rows, K, N;
};

extern "C" void multiply_all(const Product* products_, int64_t count, int64_t cache) {
    for (const Product* p = products_; p < products_ + count; p++) {
        const Size block = std::max<Size>(ROWS, cache / (p->K * 4) / ROWS * ROWS);
        for (Size from = 0; from < p->rows; from += block) {
            const Size rows = std::min(block, p->rows - from);
            for (Size group = 0; group < ceil_div(p->N, WIDE); group++)
                products<false>(p->a + from * p->K, p->K, p->b + group * p->K * WIDE, p->K,
                                p->c + group * p->rows * WIDE + from * WIDE, rows);
        }
    }
}
