#include "support/prefix.h"

#include <string.h>

void test_prefix_share(problem *p, int64_t prefix)
{
    const flashc_tensor *const tensors[] = {&p->params.k, &p->params.v, &p->params.k_scale, &p->params.v_scale};
    const int64_t cols[] = {p->params.head_dim, p->params.head_dim_v, 1, 1};
    for (int i = 0; i < 4; i++)
        for (int64_t b = 1; tensors[i]->data != NULL && b < p->params.batch; b++)
            for (int64_t h = 0; h < p->params.num_heads_k; h++)
                for (int64_t j = 0; j < prefix; j++)
                    memcpy(test_at(tensors[i], b, h, j, 0), test_at(tensors[i], 0, h, j, 0),
                           (size_t)cols[i] * flashc_dtype_size(tensors[i]->dtype));
}

flashc_shared_prefix test_prefix_split(const flashc_attention_params *whole, int64_t prefix,
                                       flashc_attention_params *own)
{
    flashc_shared_prefix shared;
    flashc_shared_prefix_init(&shared, sizeof shared);
    shared.seqlen = prefix;
    shared.k = whole->k;
    shared.v = whole->v;
    shared.k_scale = whole->k_scale;
    shared.v_scale = whole->v_scale;
    *own = *whole;
    own->seqlen_k -= prefix;
    flashc_tensor *const rows[] = {&own->k, &own->v, &own->k_scale, &own->v_scale};
    for (int i = 0; i < 4; i++)
        if (rows[i]->data != NULL)
            rows[i]->data = test_at(rows[i], 0, 0, prefix, 0);
    return shared;
}
