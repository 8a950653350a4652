-- From version 1 to 2: metrics of any kind (unit, estimator), per-item results as named arrays, storage of f32 weights
-- as an axis, and phases of a timed sample. Views are made anew after the last migration.
DROP VIEW problem;
DROP VIEW timing;
DROP VIEW result;
DROP VIEW result_all;
DROP VIEW newest_session;

ALTER TABLE experiment ADD COLUMN primary_unit TEXT NOT NULL DEFAULT '';
ALTER TABLE experiment ADD COLUMN estimator TEXT NOT NULL DEFAULT 'accuracy';
UPDATE experiment SET primary_unit = 'frac' WHERE primary_metric = 'accuracy';
ALTER TABLE cell ADD COLUMN storage TEXT NOT NULL DEFAULT 'f32';

ALTER TABLE outcome RENAME TO outcome_1;
CREATE TABLE outcome (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run(id), name TEXT NOT NULL,
  type TEXT NOT NULL CHECK (type IN ('u8','i32','f32')), items INTEGER NOT NULL, data BLOB NOT NULL,
  UNIQUE (run_id, name)
) STRICT;
INSERT INTO outcome (run_id, name, type, items, data) SELECT run_id, 'correct', 'u8', items, correct FROM outcome_1;
INSERT INTO outcome (run_id, name, type, items, data) SELECT run_id, 'predicted', 'i32', items, predicted FROM outcome_1;
INSERT INTO outcome (run_id, name, type, items, data) SELECT run_id, 'nll', 'f32', items, nll FROM outcome_1;
DROP TABLE outcome_1;

ALTER TABLE sample RENAME TO sample_1;
CREATE TABLE sample (
  run_id INTEGER NOT NULL REFERENCES run(id), phase TEXT NOT NULL, batch INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  warmup INTEGER NOT NULL, outlier INTEGER NOT NULL, latency_ns REAL NOT NULL, tokens INTEGER NOT NULL,
  PRIMARY KEY (run_id, phase, batch, ordinal)
) STRICT, WITHOUT ROWID;
INSERT INTO sample SELECT run_id, '', batch, ordinal, warmup, outlier, latency_ns, tokens FROM sample_1;
DROP TABLE sample_1;

UPDATE comparison SET name = 'metric_difference' WHERE name = 'accuracy_difference';
