-- From version 3 to 4: what stages that quantize found out about layers. Views are made anew afterwards.
DROP VIEW IF EXISTS training;
DROP VIEW IF EXISTS problem;
DROP VIEW IF EXISTS timing;
DROP VIEW IF EXISTS result;
DROP VIEW IF EXISTS result_all;
DROP VIEW IF EXISTS newest_session;

CREATE TABLE layer (
  run_id INTEGER NOT NULL REFERENCES run(id), stage INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  layer TEXT NOT NULL, format TEXT NOT NULL,
  low REAL, high REAL, seen_low REAL, seen_high REAL,
  histogram_low REAL, histogram_width REAL, histogram TEXT,
  error_name TEXT, error REAL, score_lost REAL, bytes_f32 INTEGER NOT NULL, bytes_packed INTEGER NOT NULL,
  PRIMARY KEY (run_id, stage, ordinal)
) STRICT, WITHOUT ROWID;
