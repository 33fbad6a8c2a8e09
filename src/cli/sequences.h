/* Lengths, packed sequences and pages of an attention call: from files, or made of shapes. */
#ifndef FLASHC_CLI_SEQUENCES_H
#define FLASHC_CLI_SEQUENCES_H

#include "cli/attention_options.h"
#include "cli/integers.h"

#include <flashc.h>

typedef struct flashc_cli_sequences {
    flashc_cli_integers cu_seqlens_q, cu_seqlens_k, seqlens_q, seqlens_k, leftpad_k, offsets;
    flashc_cli_integers block_table, block_table_v;
} flashc_cli_sequences;

/* Reads the files that args name. */
int flashc_cli_sequences_read(const flashc_cli_attention_args *args, flashc_cli_sequences *sequences);

/* Packed queries and keys of so many sequences of one length, or pages in an order that no prefetcher of the CPU's can
 * foresee. */
int flashc_cli_sequences_pack(int64_t batch, int64_t seqlen_q, int64_t seqlen_k, flashc_cli_sequences *sequences);
int flashc_cli_sequences_page(int64_t batch, int64_t pages_each, int64_t seqlen_k, flashc_cli_sequences *sequences);

/* Sets params' arrays and tables, whose batch must be known; k_pages and v_pages: pages, and rows of a page, in k and
 * v. */
int flashc_cli_sequences_set(const flashc_cli_sequences *sequences, const int64_t k_pages[2],
                             const int64_t v_pages[2], flashc_attention_params *params);

void flashc_cli_sequences_free(flashc_cli_sequences *sequences);

#endif
