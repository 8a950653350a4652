-- From version 2 to 3: curves of stages that train, and scores taken on the way. Views are made anew afterwards.
DROP VIEW IF EXISTS problem;
DROP VIEW IF EXISTS timing;
DROP VIEW IF EXISTS result;
DROP VIEW IF EXISTS result_all;
DROP VIEW IF EXISTS newest_session;

CREATE TABLE curve (
  run_id INTEGER NOT NULL REFERENCES run(id), stage INTEGER NOT NULL, step INTEGER NOT NULL,
  loss REAL, rate REAL, gradient_norm REAL, seconds REAL,
  PRIMARY KEY (run_id, stage, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE evaluation (
  run_id INTEGER NOT NULL REFERENCES run(id), stage INTEGER NOT NULL, step INTEGER NOT NULL,
  metric TEXT NOT NULL, value REAL,
  PRIMARY KEY (run_id, stage, step, metric)
) STRICT, WITHOUT ROWID;
