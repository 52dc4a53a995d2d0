// Run by test_web_logic.py, or by hand: node --test tests/web_logic/running_trainings.test.mjs
import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import test from "node:test"

// A data URL: Node takes a .js file without a package.json for CommonJS, browsers take it for the module that it is.
const source = readFileSync(new URL("../../web/js/running_trainings.js", import.meta.url), "utf8")
const { findNode, finish, runningNodes } = await import(`data:text/javascript,${encodeURIComponent(source)}`)

test("nodes that run are told from those that are done", () => {
  const detail = {
    prompt_id: "p", nodes: {
      1: { state: "finished", node_id: "1", prompt_id: "p" },
      "3:7": { state: "running", node_id: "3:7", prompt_id: "p", value: 3, max: 9 },
      8: { state: "error", node_id: "8", prompt_id: "p" },
    },
  }
  assert.deepEqual(runningNodes(detail), [{ nodeId: "3:7", promptId: "p" }])
  for (const nothing of [undefined, null, {}, { nodes: {} }]) assert.deepEqual(runningNodes(nothing), [])
})

test("a node inside subgraphs is found by its execution id", () => {
  const graph = (nodes) => ({ getNodeById: (id) => nodes[id] ?? null })
  const inner = { name: "train" }
  const root = graph({ 3: { subgraph: graph({ 4: { subgraph: graph({ 7: inner }) } }) }, 7: { name: "another" } })
  assert.equal(findNode(root, "3:4:7"), inner)
  assert.equal(findNode(root, 7).name, "another")
  for (const nowhere of ["9", "7:1", "3:9:7"]) assert.equal(findNode(root, nowhere), undefined)
  assert.equal(findNode(undefined, "7"), undefined)
})

test("asking names the prompt and the node", async () => {
  const asked = []
  const answering = (status) => async (path, options) => {
    asked.push([path, options.method, options.headers["Content-Type"], options.body])
    return { ok: status === 200, status }
  }
  assert.equal(await finish(answering(200), { promptId: "p", nodeId: "3:7" }), "")
  assert.deepEqual(asked, [["/masked_lora/finish", "POST", "application/json", '{"prompt_id":"p","node_id":"3:7"}']])
  assert.match(await finish(answering(404), { promptId: "p", nodeId: "7" }), /No step is done yet/)
  assert.match(await finish(answering(400), { promptId: "p", nodeId: "7" }), /400/)
  const offline = async () => { throw new Error("Failed to fetch") }
  assert.match(await finish(offline, { promptId: "p", nodeId: "7" }), /cannot be reached: Failed to fetch/)
})
