-- The results database, version 4. One transaction per run; the parent process is the only writer.
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

-- What stages that quantize found out about layers: the range chosen for a layer's input, the counts of its input in equal
-- bins (JSON: [12,0,7]; NULL: none) from which it was chosen, and what was lost when this layer alone was quantized: the
-- error of the model's output (error_name says which) and of the primary metric (score_lost; above 0 is worse).
CREATE TABLE layer (
  run_id INTEGER NOT NULL REFERENCES run(id), stage INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  layer TEXT NOT NULL, format TEXT NOT NULL,
  low REAL, high REAL, seen_low REAL, seen_high REAL,
  histogram_low REAL, histogram_width REAL, histogram TEXT,
  error_name TEXT, error REAL, score_lost REAL, bytes_f32 INTEGER NOT NULL, bytes_packed INTEGER NOT NULL,
  PRIMARY KEY (run_id, stage, ordinal)
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
