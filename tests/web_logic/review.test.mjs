// Run by test_web_logic.py, or by hand: node --test tests/web_logic/review.test.mjs
import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import test from "node:test"

// A data URL: Node takes a .js file without a package.json for CommonJS, browsers take it for the module that it is.
const load = (name) => {
  const source = readFileSync(new URL(`../../web/js/${name}.js`, import.meta.url), "utf8")
  return import(`data:text/javascript,${encodeURIComponent(source)}`)
}
const { ask, markedCard, pressed, stateWords, summary, tileAddress, viewAddress } = await load("review_words")
const { openMaskEditor, standIn } = await load("review_editor")

const cards = (...reviews) => reviews.map((review) => ({ review }))

test("totals", () => {
  assert.equal(summary(cards("", "accepted", "", "redo")), "4 masks: 2 not reviewed, 1 accepted, 1 to be made anew")
  assert.equal(summary(cards("accepted")), "1 mask: 1 accepted")
  assert.equal(stateWords("redo"), "To be made anew")
  assert.equal(stateWords("of another version"), "Not reviewed")
})

test("a second press takes it back", () => {
  assert.equal(pressed("", "accepted"), "accepted")
  assert.equal(pressed("accepted", "accepted"), "")
  assert.equal(pressed("accepted", "redo"), "redo")
})

test("addresses", () => {
  assert.equal(tileAddress({ set: "k", picture: "../a b&c.png", version: "1-2" }),
    "/masked_lora/review/tile?set=k&picture=..%2Fa+b%26c.png&version=1-2")
  assert.equal(viewAddress({ filename: "a.png", subfolder: "s", type: "temp" }), "/view?filename=a.png&subfolder=s&type=temp")
})

test("asking", async () => {
  const asked = []
  const answering = (status, value) => async (path, options) => {
    asked.push([path, options?.method, options?.body])
    return { ok: status === 200, status, json: async () => value }
  }
  assert.deepEqual(await ask(answering(200, { a: 1 }), "list", { set: "k" }), { value: { a: 1 } })
  assert.deepEqual(await ask(answering(404, { error: "not open" }), "mark", null, { set: "k" }), { problem: "not open", answer: { error: "not open" } })
  assert.deepEqual(asked, [["/masked_lora/review/list?set=k", undefined, undefined], ["/masked_lora/review/mark", "POST", '{"set":"k"}']])
  const broken = async () => ({ ok: false, status: 500, json: async () => { throw new SyntaxError("no JSON") } })
  assert.deepEqual(await ask(broken, "list", { set: "k" }), { problem: "ComfyUI answered 500.", answer: {} })
  const offline = async () => { throw new Error("Failed to fetch") }
  assert.match((await ask(offline, "list", { set: "k" })).problem, /cannot be reached: Failed to fetch/)
})

test("a mark that is refused shows the mask as it is now", () => {
  const card = { picture: "a.png", version: "2" }
  assert.deepEqual(markedCard({ value: card }, "k"), { ...card, set: "k" })
  assert.deepEqual(markedCard({ problem: "has changed", answer: { error: "has changed", card } }, "k"), { ...card, set: "k" })
  assert.equal(markedCard({ problem: "not open", answer: { error: "not open" } }, "k"), undefined)
  assert.equal(markedCard({ problem: "cannot be reached" }, "k"), undefined)
})

test("the editor gets a node that is none, and its file comes back", () => {
  const [image, picture, saved] = [{ filename: "a.png" }, {}, []]
  const page = { clipspace_return_node: "another", open_maskeditor() { this.opened = this.clipspace_return_node } }
  assert.equal(openMaskEditor(page, image, picture, (file) => saved.push(file)), "")
  assert.equal(page.clipspace_return_node, "another")
  assert.deepEqual([page.opened.images, page.opened.imgs, saved], [[image], [picture], []])
  page.opened.images = [{ filename: "clipspace-painted-masked-1.png", subfolder: "", type: "input" }]
  page.opened.imgs = undefined
  assert.deepEqual(saved, [{ filename: "clipspace-painted-masked-1.png", subfolder: "", type: "input" }])
  assert.equal(page.opened.images[0].filename, "clipspace-painted-masked-1.png")
})

test("a page without that editor, and a save without a file", () => {
  assert.match(openMaskEditor({}, {}, {}, () => assert.fail()), /offers no way/)
  assert.match(openMaskEditor(undefined, {}, {}, () => assert.fail()), /offers no way/)
  standIn({}, {}, () => assert.fail()).images = undefined
})
