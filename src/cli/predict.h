/* What `explain --predict` adds: the time of a call with more and fewer threads than this machine has. */
#ifndef FLASHC_CLI_PREDICT_H
#define FLASHC_CLI_PREDICT_H

#include "cli/calibrate.h"
#include "cli/json.h"
#include "cli/makespan.h"

enum { FLASHC_MOST_PREDICTIONS = 16 };

typedef struct flashc_prediction {
    int threads;       /* asked for */
    int64_t team;      /* that have items to take */
    int64_t items;
    flashc_makespan makespan;
} flashc_prediction;

typedef struct flashc_predictions {
    flashc_calibration measured; /* but for a bandwidth that was given */
    double bandwidth;            /* bytes per second, as measured */
    int count;
    flashc_prediction list[FLASHC_MOST_PREDICTIONS]; /* 1, 2, 4, ... threads */
} flashc_predictions;

/* Measures, then simulates the call, whose plan this is, with 1, 2, 4, ... threads up to args->num_threads, or 128 if
 * that is 0. FLASHC_CLI_OK or the exit code after a message. */
int flashc_predict(const flashc_cli_attention_args *args, const flashc_attention_params *params,
                   const flashc_explanation *plan, flashc_predictions *out);

void flashc_predictions_print(const flashc_predictions *predictions, FILE *out);
/* As members of the open JSON object. */
void flashc_predictions_json(const flashc_predictions *predictions, flashc_cli_json *json);

#endif
