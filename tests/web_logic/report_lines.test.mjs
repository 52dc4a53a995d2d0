// Run by test_web_logic.py, or by hand: node --test tests/web_logic/report_lines.test.mjs
import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import test from "node:test"

// A data URL: Node takes a .js file without a package.json for CommonJS, browsers take it for the module that it is.
const source = readFileSync(new URL("../../web/js/report_lines.js", import.meta.url), "utf8")
const { duration, reportLines } = await import(`data:text/javascript,${encodeURIComponent(source)}`)

const TRAINING = {
  steps: 300, seconds_per_step: 0.3283, total_seconds: 98.5, peak_rss_mb: 1212.46, loss_inside_first: 1.10616, loss_inside_last: 0.89401,
  loss_outside_first: 1.22897, loss_outside_last: 0.84897, mean_weight: 0.105,
}

test("durations", () => {
  assert.deepEqual([0, 9.4, 59.6, 95, 3700].map(duration), ["0:00", "0:09", "1:00", "1:35", "1:01:40"])
})

test("a training", () => {
  assert.deepEqual(reportLines(JSON.stringify(TRAINING)), [
    "300 steps in 1:39, 0.33 s a step, peak 1.2 GB RAM",
    "Loss inside the masks: 1.11 at first, 0.894 at last",
    "Loss outside the masks: 1.23 at first, 0.849 at last",
  ])
})

test("a training with gaps: no memory told, no pixel outside the masks", () => {
  const gaps = { peak_rss_mb: null, loss_outside_first: null, loss_outside_last: null }
  assert.deepEqual(reportLines(JSON.stringify({ ...TRAINING, ...gaps })), [
    "300 steps in 1:39, 0.33 s a step",
    "Loss inside the masks: 1.11 at first, 0.894 at last",
  ])
})

test("a training of a model that no test proves", () => {
  const warning = "Mochi is not among the proven models"
  assert.equal(reportLines(JSON.stringify({ ...TRAINING, outcome: "", warning })).at(-1), warning)
})

test("a training that was resumed, finished early, or complete before", () => {
  const outcome = "resumed at step 200 of 900; finished early at step 300 of 900"
  const [first, second] = reportLines(JSON.stringify({ ...TRAINING, outcome, total_seconds: 32.83 }))
  assert.equal(first, "Resumed at step 200 of 900; finished early at step 300 of 900")
  assert.equal(second, "100 steps in 0:33, 0.33 s a step, peak 1.2 GB RAM")
  const complete = { ...TRAINING, outcome: "already complete: 300 of 300 steps are done, nothing was trained", seconds_per_step: null }
  assert.deepEqual(reportLines(JSON.stringify(complete)).slice(0, 2), [
    "Already complete: 300 of 300 steps are done, nothing was trained",
    "Loss inside the masks: 1.11 at first, 0.894 at last",
  ])
})

test("a drift", () => {
  assert.deepEqual(reportLines('{"drift_inside": 0.08931, "drift_outside": 0.02521}'), [
    "Change inside the masks: 0.0893",
    "Change outside the masks: 0.0252",
    "3.5 times as much inside as outside",
  ])
  assert.equal(reportLines('{"drift_inside": 0.1, "drift_outside": 0}').length, 2)
})

test("a saved file and a padding", () => {
  assert.deepEqual(reportLines('{"file": "loras/a_00001.safetensors", "text_padding": {}}'), [
    "Saved as loras/a_00001.safetensors in the output folder",
  ])
  assert.deepEqual(reportLines('{"text_padding": {}, "says": "trained with comfyui-mask"}'), ["Text padding: trained with comfyui-mask"])
  assert.deepEqual(reportLines('{"says": "unknown", "notes": ["scaled by 0.5", "not loaded: 1 key"]}'),
    ["Text padding: unknown", "scaled by 0.5", "not loaded: 1 key"])
})

test("anything else stays as it is", () => {
  assert.deepEqual(reportLines("White = learn.\npibo_01: 10 %"), ["White = learn.", "pibo_01: 10 %"])
  for (const text of ['{"new": 1}', "12", "null", "", "{broken"]) assert.deepEqual(reportLines(text), [text])
})
