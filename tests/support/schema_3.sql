-- The schema of version 3, as it was: migrations are tested from it.
-- Numbers a machine does not offer are NULL with a reason beside them, never 0.

CREATE TABLE host (
  id INTEGER PRIMARY KEY,
  -- Of what identifies the machine (cpu, flags, cores, caches, memory in GiB, hypervisor); never of a jittery value.
  -- The same machine after a new kernel or governor is a new row with the same fingerprint.
  fingerprint TEXT NOT NULL,
  cpu TEXT NOT NULL, cpu_flags TEXT NOT NULL, cores INTEGER NOT NULL,
  caches TEXT NOT NULL, memory_bytes INTEGER NOT NULL, kernel TEXT NOT NULL, governor TEXT,
  virtual TEXT                            -- hypervisor vendor, or NULL
) STRICT;
CREATE UNIQUE INDEX host_identity ON host(fingerprint, kernel, ifnull(governor, ''));

CREATE TABLE build (
  id INTEGER PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE,
  version TEXT NOT NULL, git_commit TEXT NOT NULL, dirty INTEGER NOT NULL, mode TEXT NOT NULL,
  compiler TEXT NOT NULL, flags TEXT NOT NULL, blas TEXT NOT NULL, onednn TEXT
) STRICT;

CREATE TABLE experiment (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL, hash TEXT NOT NULL, path TEXT NOT NULL, description TEXT NOT NULL, text TEXT NOT NULL,
  task TEXT NOT NULL, data_hash TEXT NOT NULL, model TEXT NOT NULL,   -- model: config as JSON
  primary_metric TEXT NOT NULL, higher_is_better INTEGER NOT NULL, classes TEXT,
  primary_unit TEXT NOT NULL DEFAULT '', estimator TEXT NOT NULL DEFAULT 'accuracy', -- estimator: task/paired.h
  UNIQUE (name, hash, data_hash)
) STRICT;

-- One invocation of runexp on one experiment. ended_at NULL: interrupted; the next invocation continues it.
CREATE TABLE session (
  id INTEGER PRIMARY KEY,
  experiment_id INTEGER NOT NULL REFERENCES experiment(id),
  host_id INTEGER NOT NULL REFERENCES host(id), build_id INTEGER NOT NULL REFERENCES build(id),
  started_at TEXT NOT NULL, ended_at TEXT, command TEXT NOT NULL,
  cpumask INTEGER NOT NULL, cpu_flags_used TEXT NOT NULL, load_average REAL, warnings TEXT,
  order_seed INTEGER NOT NULL, rounds INTEGER NOT NULL, samples INTEGER NOT NULL, warmup INTEGER NOT NULL,
  timing_valid INTEGER NOT NULL DEFAULT 1, timing_note TEXT  -- 0: debug, sanitizer or dirty build
) STRICT;

CREATE TABLE cell (
  id INTEGER PRIMARY KEY,
  experiment_id INTEGER NOT NULL REFERENCES experiment(id),
  key TEXT NOT NULL, label TEXT NOT NULL, ordinal INTEGER NOT NULL,
  pipeline TEXT NOT NULL, options TEXT NOT NULL,   -- options: requested, as JSON; applied ones are in stage
  threads INTEGER NOT NULL, seed INTEGER NOT NULL, gemm TEXT NOT NULL,
  is_baseline INTEGER NOT NULL, baseline_key TEXT NOT NULL,
  storage TEXT NOT NULL DEFAULT 'f32',             -- of f32 matrices that no technique packed, while running
  UNIQUE (experiment_id, key)
) STRICT;

CREATE TABLE artifact (
  id INTEGER PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE, path TEXT NOT NULL, bytes INTEGER NOT NULL,
  linear_bytes INTEGER NOT NULL, linear_f32_bytes INTEGER NOT NULL, bits_per_weight REAL NOT NULL,
  executes TEXT NOT NULL CHECK (executes IN ('packed','simulated'))
) STRICT;

-- kind 'build': stages, artifact, scores (round 0). kind 'time': one interleaved round of timing.
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  uuid TEXT NOT NULL UNIQUE,
  cell_id INTEGER NOT NULL REFERENCES cell(id), session_id INTEGER NOT NULL REFERENCES session(id),
  kind TEXT NOT NULL CHECK (kind IN ('build','time')), round INTEGER NOT NULL, position INTEGER NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('ok','failed','timeout','oom','crashed','skipped','interrupted')),
  reason TEXT NOT NULL DEFAULT '', signal INTEGER, exit_code INTEGER,
  artifact_id INTEGER REFERENCES artifact(id),
  started_at TEXT NOT NULL, wall_ms REAL NOT NULL, overhead_ms REAL, peak_rss_bytes INTEGER,
  log TEXT NOT NULL DEFAULT '',
  UNIQUE (cell_id, session_id, kind, round)
) STRICT;

CREATE INDEX run_session ON run(session_id, kind, status);

CREATE TABLE stage (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run(id), ordinal INTEGER NOT NULL,
  technique TEXT NOT NULL, version INTEGER NOT NULL, options TEXT NOT NULL, -- as read back after it was applied
  wall_ms REAL NOT NULL, cached INTEGER NOT NULL, linear_bytes INTEGER, total_bytes INTEGER,
  UNIQUE (run_id, ordinal)
) STRICT;

-- stage_id NULL: of the final artifact (split test); with stage: after that stage (split validation), and what the technique reports.
CREATE TABLE metric (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run(id), stage_id INTEGER REFERENCES stage(id),
  name TEXT NOT NULL, unit TEXT NOT NULL, value REAL
) STRICT;
CREATE INDEX metric_run ON metric(run_id, name);

-- phase '': the whole of it. Where text is generated also 'prefill' (prompt to first token) and 'decode' (the others).
CREATE TABLE sample (
  run_id INTEGER NOT NULL REFERENCES run(id), phase TEXT NOT NULL, batch INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  warmup INTEGER NOT NULL, outlier INTEGER NOT NULL, latency_ns REAL NOT NULL, tokens INTEGER NOT NULL,
  PRIMARY KEY (run_id, phase, batch, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE counter (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run(id), meter TEXT NOT NULL, batch INTEGER NOT NULL,
  name TEXT NOT NULL, unit TEXT NOT NULL, value REAL, reason TEXT NOT NULL DEFAULT '',
  enabled_ns REAL, running_ns REAL
) STRICT;
CREATE INDEX counter_run ON counter(run_id);

-- Per-item results of the test split, for paired comparisons: arrays, little endian. Which there are depends on the task.
CREATE TABLE outcome (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run(id), name TEXT NOT NULL,
  type TEXT NOT NULL CHECK (type IN ('u8','i32','f32')), items INTEGER NOT NULL, data BLOB NOT NULL,
  UNIQUE (run_id, name)
) STRICT;

-- Steps of stages that train, as they happened: what `stage` (its ordinal) tells of each. At most some 2,048 rows a stage:
-- longer ones are thinned evenly, to every 2nd, 4th, … step; the first and the last step are always there.
-- seconds: since the stage began to train. gradient_norm: before clipping.
CREATE TABLE curve (
  run_id INTEGER NOT NULL REFERENCES run(id), stage INTEGER NOT NULL, step INTEGER NOT NULL,
  loss REAL, rate REAL, gradient_norm REAL, seconds REAL,
  PRIMARY KEY (run_id, stage, step)
) STRICT, WITHOUT ROWID;

-- Scores on the validation split while a stage trained, after this step of it (0: before the first).
CREATE TABLE evaluation (
  run_id INTEGER NOT NULL REFERENCES run(id), stage INTEGER NOT NULL, step INTEGER NOT NULL,
  metric TEXT NOT NULL, value REAL,
  PRIMARY KEY (run_id, stage, step, metric)
) STRICT, WITHOUT ROWID;

CREATE TABLE yardstick (
  id INTEGER PRIMARY KEY,
  task TEXT NOT NULL, data_hash TEXT NOT NULL, name TEXT NOT NULL, accuracy_frac REAL NOT NULL, correct BLOB NOT NULL,
  UNIQUE (task, data_hash, name)
) STRICT;

-- Derived per cell and session from stored samples and outcomes (store_compare).
-- name: latency_ms (estimate = median over rounds of round medians, n = rounds), tokens_per_s (the same of rates),
-- latency_ratio (paired with the baseline, round by round); the same of phases, as prefill_ms, prefill_tokens_per_s,
-- prefill_ratio, decode_ms, …; metric_difference (the primary metric minus the baseline's, paired item by item),
-- vs_<yardstick> (accuracy minus the yardstick's, paired). n = items; p_value is McNemar's exact one for accuracy, else
-- that of the bootstrap.
CREATE TABLE comparison (
  cell_id INTEGER NOT NULL REFERENCES cell(id), session_id INTEGER NOT NULL REFERENCES session(id),
  name TEXT NOT NULL, batch INTEGER NOT NULL,      -- batch 0: not a timing
  estimate REAL, lo REAL, hi REAL, p_value REAL, n INTEGER NOT NULL, method TEXT NOT NULL,
  PRIMARY KEY (cell_id, session_id, name, batch)
) STRICT, WITHOUT ROWID;
-- Views of the results database: made with the tables, and anew after a migration. `result` is a contract.

-- The newest session of each experiment name that has any results.
CREATE VIEW newest_session AS
  SELECT e.name AS experiment, MAX(s.id) AS session_id
  FROM session s JOIN experiment e ON e.id = s.experiment_id
  WHERE EXISTS (SELECT 1 FROM run r WHERE r.session_id = s.id)
  GROUP BY e.name;

-- One row per (session, cell) whose build run is ok. `result` keeps the newest session of each experiment.
CREATE VIEW result_all AS
  SELECT s.id AS session_id, s.started_at, e.name AS experiment, c.label AS cell, c.key AS cell_key, c.ordinal,
    c.pipeline, c.is_baseline, e.model, e.task, c.threads, c.seed, c.gemm, r.status,
    e.primary_metric AS metric_name, e.higher_is_better,
    (SELECT m.value FROM metric m WHERE m.run_id = r.id AND m.stage_id IS NULL AND m.name = e.primary_metric) AS metric_value,
    ad.estimate AS metric_difference, ad.lo AS metric_difference_lo, ad.hi AS metric_difference_hi, ad.p_value AS metric_p_value,
    a.bytes AS size_bytes, a.linear_bytes, a.linear_f32_bytes, a.bits_per_weight, a.executes, a.hash AS artifact_hash,
    lm.batch AS batch, lm.estimate AS latency_ms_median, lm.lo AS latency_ms_lo, lm.hi AS latency_ms_hi,
    lr.estimate AS latency_ratio, lr.lo AS latency_ratio_lo, lr.hi AS latency_ratio_hi,
    (SELECT k.estimate FROM comparison k WHERE k.cell_id = c.id AND k.session_id = s.id AND k.name = 'tokens_per_s' AND k.batch = lm.batch) AS tokens_per_s,
    (SELECT MAX(t.peak_rss_bytes) FROM run t WHERE t.cell_id = c.id AND t.session_id = s.id AND t.kind = 'time' AND t.status = 'ok') AS peak_rss_bytes,
    s.timing_valid, s.host_id, s.build_id, c.id AS cell_id, r.id AS run_id, e.primary_unit AS metric_unit, c.storage
  FROM run r
  JOIN cell c ON c.id = r.cell_id JOIN session s ON s.id = r.session_id JOIN experiment e ON e.id = s.experiment_id
  LEFT JOIN artifact a ON a.id = r.artifact_id
  LEFT JOIN comparison lm ON lm.cell_id = c.id AND lm.session_id = s.id AND lm.name = 'latency_ms'
    AND lm.batch = (SELECT MIN(x.batch) FROM comparison x WHERE x.cell_id = c.id AND x.session_id = s.id AND x.name = 'latency_ms')
  LEFT JOIN comparison lr ON lr.cell_id = c.id AND lr.session_id = s.id AND lr.name = 'latency_ratio' AND lr.batch = lm.batch
  LEFT JOIN comparison ad ON ad.cell_id = c.id AND ad.session_id = s.id AND ad.name = 'metric_difference'
  WHERE r.kind = 'build' AND r.status = 'ok';

CREATE VIEW result AS
  SELECT r.* FROM result_all r JOIN newest_session n ON n.experiment = r.experiment AND n.session_id = r.session_id;

-- One row per (session, cell, batch size).
CREATE VIEW timing AS
  SELECT s.id AS session_id, e.name AS experiment, c.label AS cell, c.ordinal, c.is_baseline, l.batch,
    l.estimate AS latency_ms_median, l.lo AS latency_ms_lo, l.hi AS latency_ms_hi, l.n AS rounds,
    q.estimate AS latency_ratio, q.lo AS latency_ratio_lo, q.hi AS latency_ratio_hi
  FROM comparison l
  JOIN cell c ON c.id = l.cell_id JOIN session s ON s.id = l.session_id JOIN experiment e ON e.id = s.experiment_id
  LEFT JOIN comparison q ON q.cell_id = l.cell_id AND q.session_id = l.session_id AND q.name = 'latency_ratio' AND q.batch = l.batch
  WHERE l.name = 'latency_ms';

-- Everything that did not end ok, newest session of each experiment.
CREATE VIEW problem AS
  SELECT e.name AS experiment, c.label AS cell, r.kind, r.round, r.status, r.reason, r.signal, r.exit_code, s.id AS session_id
  FROM run r JOIN cell c ON c.id = r.cell_id JOIN session s ON s.id = r.session_id JOIN experiment e ON e.id = s.experiment_id
  JOIN newest_session n ON n.experiment = e.name AND n.session_id = s.id
  WHERE r.status <> 'ok';

-- One row per stored step of every stage that trained; metric and value where the model was scored after that step.
CREATE VIEW training AS
  SELECT e.name AS experiment, c.label AS cell, c.seed, u.stage, t.technique, u.step, u.loss, u.rate, u.gradient_norm,
    u.seconds, v.metric, v.value, r.session_id
  FROM run r JOIN cell c ON c.id = r.cell_id JOIN experiment e ON e.id = c.experiment_id
  JOIN curve u ON u.run_id = r.id JOIN stage t ON t.run_id = r.id AND t.ordinal = u.stage
  LEFT JOIN evaluation v ON v.run_id = u.run_id AND v.stage = u.stage AND v.step = u.step
  WHERE r.kind = 'build';
