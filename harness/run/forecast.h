/* What a plan can tell before anything runs: which cells the cache will serve, and roughly how long the rest
 * will take, from earlier runs in the database where there are any and from the model's size otherwise. */
#ifndef FORECAST_H
#define FORECAST_H

#include "config/experiment.h"
#include "store/store.h"

struct forecast {
    struct store store;
    bool have_store;
    char cache_dir[4200];
    char data_hash[HASH_HEX]; /* of the experiment being asked about; "" where its data cannot be read */
    double train_items;
    struct model_config model; /* a pretrained one's is read from its files */
    char (*paid)[HASH_HEX];    /* keys of the training stages that earlier cells of the experiment pay for */
    size_t paid_count, paid_room;
    double training_flop_per_s; /* of this machine; 0: not measured yet */
};

int forecast_open(struct forecast *forecast, const char *db_path); /* a missing database is no error */
/* Read what is asked about next, and give a skip_reason to cells that cannot run (run/foresee.h). */
int forecast_experiment(struct forecast *forecast, struct experiment *experiment);
bool forecast_cached(void *host, const struct experiment *experiment, const struct cell *cell);
double forecast_seconds(void *host, const struct experiment *experiment, const struct cell *cell); /* NaN: unknown */
void forecast_close(struct forecast *forecast);

#endif
