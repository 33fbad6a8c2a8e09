/* A program of somebody else's, in C11 and C++17: one attention call against what was installed. Prints the
 * version, the BLAS that the library found and one number; the number is checked by check_install.py. */
#include <flashc.h>
#include <stdio.h>

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, flashc_last_error());
    return 1;
}

int main(void)
{
    /* One query, two keys: scores 0 and ln 3, so the weights are 1/4 and 3/4. */
    float q[1] = {1.0f}, k[2] = {0.0f, 1.0986123f}, v[2] = {8.0f, 4.0f}, o[1] = {0.0f}, lse[1] = {0.0f};
    flashc_attention_params params;
    flashc_attention_params_init(&params, sizeof params);
    params.seqlen_q = 1;
    params.seqlen_k = 2;
    params.head_dim = params.head_dim_v = 1;
    params.q = flashc_tensor_bhsd(q, FLASHC_F32, 1, 1, 1);
    params.k = flashc_tensor_bhsd(k, FLASHC_F32, 1, 2, 1);
    params.v = flashc_tensor_bhsd(v, FLASHC_F32, 1, 2, 1);
    params.o = flashc_tensor_bhsd(o, FLASHC_F32, 1, 1, 1);
    params.lse = flashc_tensor_bhsd(lse, FLASHC_F32, 1, 1, 1);
    if (flashc_attention_fwd(&params) != FLASHC_OK)
        return failed("flashc_attention_fwd");

    flashc_system_info info;
    info.struct_size = sizeof info;
    if (flashc_system_get(&info) != FLASHC_OK)
        return failed("flashc_system_get");
    printf("%s\n%s\n%.6f %.6f\n", flashc_version(), info.blas, (double)o[0], (double)lse[0]);

    /* A wrong call is a status and a message. */
    params.head_dim = 0;
    return flashc_attention_fwd(&params) == FLASHC_ERR_ARGUMENT && flashc_last_error()[0] ? 0 : 1;
}
