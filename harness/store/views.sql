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

-- One row per layer that a stage which quantizes told of.
CREATE VIEW layers AS
  SELECT e.name AS experiment, c.label AS cell, c.seed, l.stage, t.technique, l.ordinal, l.layer, l.format, l.low, l.high,
    l.seen_low, l.seen_high, l.error_name, l.error, l.score_lost, l.bytes_f32, l.bytes_packed,
    l.histogram_low, l.histogram_width, l.histogram, r.session_id
  FROM run r JOIN cell c ON c.id = r.cell_id JOIN experiment e ON e.id = c.experiment_id
  JOIN layer l ON l.run_id = r.id JOIN stage t ON t.run_id = r.id AND t.ordinal = l.stage
  WHERE r.kind = 'build';
