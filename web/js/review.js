// Review Masks: the gallery on the node, what its buttons do, and ComfyUI's mask editor.
import { api } from "../../../scripts/api.js"
import { app, ComfyApp } from "../../../scripts/app.js"
import { openMaskEditor } from "./review_editor.js"
import { Gallery } from "./review_gallery.js"
import { ask, markedCard, tileAddress, viewAddress } from "./review_words.js"
import { findNode } from "./running_trainings.js"

const KIND = "MaskedLoRA_ReviewMasks"
const WIDGET = "masked_lora_review"
const HEIGHT = 420 // pixels of the gallery at least
const SIZE = [560, 640] // pixels of the node once it shows masks

/** @type {WeakMap<object, Gallery>} by node */
const galleries = new WeakMap()
const fetchApi = (path, options) => api.fetchApi(path, options)
const complain = (summary, detail) => app.extensionManager.toast.add({ severity: "error", summary, detail, life: 8000 })

function addGallery(node) {
  const gallery = new Gallery({
    tile: (card) => api.apiURL(tileAddress(card)),
    mark: async ({ set, picture, version }, review) => {
      const asked = await ask(fetchApi, "mark", null, { set, picture, review, version })
      if (asked.problem) complain("Review Masks", asked.problem)
      return markedCard(asked, set)
    },
    edit: (card) => edit(gallery, card),
  })
  const height = () => (gallery.cards.length ? HEIGHT : 48)
  const widget = node.addDOMWidget(WIDGET, WIDGET, gallery.element, { serialize: false, hideOnZoom: false, getMinHeight: height })
  widget.serialize = false
  galleries.set(node, gallery)
}

async function edit(gallery, { set, picture }) {
  const { value: image, problem } = await ask(fetchApi, "edit", null, { set, picture })
  if (problem) return complain("Edit mask", problem)
  const drawn = new Image()
  drawn.src = api.apiURL(viewAddress(image))
  const why = openMaskEditor(ComfyApp, image, drawn, async (saved) => {
    const { value: card, problem } = await ask(fetchApi, "edited", null, { set, picture, image: saved })
    if (problem) complain("The mask was not changed", problem)
    else gallery.update({ ...card, set })
  })
  if (why) complain("Edit mask", why)
}

/** @param {string[] | undefined} sets the keys of the folders whose masks the node shows */
async function show(node, sets) {
  const gallery = galleries.get(node)
  if (!gallery || !Array.isArray(sets)) return
  const cards = []
  for (const set of sets) {
    const { value, problem } = await ask(fetchApi, "list", { set })
    if (problem) return gallery.say(problem)
    cards.push(...value.pictures.map((card) => ({ ...card, set })))
  }
  const first = !gallery.cards.length // later the node keeps the size that a person gave it
  gallery.show(cards)
  if (first) node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])])
  node.setDirtyCanvas(true, true)
}

function addStyle() {
  const link = document.createElement("link")
  link.rel = "stylesheet"
  link.href = new URL("./review.css", import.meta.url).href
  document.head.append(link)
}

/** The node of a key of app.nodeOutputs: "7", or "<id of the subgraph>:7". */
function nodeAt(key) {
  const [id, subgraph] = String(key).split(":").reverse()
  const graph = subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph
  return graph?.getNodeById(id)
}

app.registerExtension({
  name: "masked_lora.review",
  setup() {
    addStyle()
    // A node that stops the graph has no outputs; the server sends this before it fails.
    api.addEventListener("masked_lora_review", ({ detail }) => {
      const node = findNode(app.rootGraph, detail?.node)
      if (node?.comfyClass === KIND) show(node, detail.sets)
    })
  },
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return
    addGallery(node)
    const before = node.onExecuted
    node.onExecuted = function (output) {
      before?.call(this, output)
      show(this, output?.masked_lora_review)
    }
  },
  // The page restores results without a run: another tab of workflows, a job of the history.
  onNodeOutputsUpdated(outputs) {
    for (const [key, output] of Object.entries(outputs ?? {})) {
      const node = nodeAt(key)
      if (node?.comfyClass === KIND) show(node, output?.masked_lora_review)
    }
  },
})
