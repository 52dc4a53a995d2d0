// "Finish now" on Train Masked LoRA while it runs: the graph goes on with what is learned so far.
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { findNode, finish, runningNodes } from "./running_trainings.js"

const WIDGET = "masked_lora_finish"
const HEIGHT = 34 // pixels
const STYLE = "width: 100%; height: 26px; border: 1px solid var(--border-color); border-radius: 6px; cursor: pointer; "
  + "font: 12px sans-serif; color: var(--input-text); background: var(--comfy-input-bg);"

/** @type {Map<object, { running: import("./running_trainings.js").Running, widget: object, grown: number }>} by node */
const buttons = new Map()

function addButton(node, running) {
  const element = document.createElement("div")
  element.className = WIDGET
  const button = document.createElement("button")
  button.style.cssText = STYLE
  button.textContent = "Finish now"
  button.title = "Ends the training after this step; the graph goes on with what it has learned."
  button.addEventListener("pointerdown", (event) => event.stopPropagation()) // pressing is not dragging the node
  button.addEventListener("click", async () => {
    button.disabled = true
    const problem = await finish((path, options) => api.fetchApi(path, options), buttons.get(node)?.running ?? running)
    button.disabled = !problem
    button.textContent = problem ? "Finish now" : "Finishing after this step"
    if (problem) app.extensionManager.toast.add({ severity: "warn", summary: "Finish now", detail: problem, life: 5000 })
  })
  element.append(button)
  const height = () => HEIGHT
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height })
  widget.serialize = false
  const [before, needed] = [node.size[1], node.computeSize()[1]]
  const grown = Math.max(0, needed - before)
  if (grown) node.setSize([node.size[0], needed])
  node.setDirtyCanvas(true, true)
  return { running, widget, grown }
}

function removeButton(node, { widget, grown }) {
  if (!node.widgets?.includes(widget)) return // the workflow was closed
  node.removeWidget(widget)
  if (grown) node.setSize([node.size[0], Math.max(node.computeSize()[1], node.size[1] - grown)])
  node.setDirtyCanvas(true, true)
}

/** @param {import("./running_trainings.js").Running[]} running the nodes that run now; no others keep their button */
function update(running) {
  const wanted = new Map()
  for (const one of running) {
    const node = findNode(app.rootGraph, one.nodeId)
    if (node?.comfyClass === "MaskedLoRA_Train") wanted.set(node, one)
  }
  for (const [node, button] of buttons) {
    if (wanted.has(node)) continue
    buttons.delete(node)
    removeButton(node, button)
  }
  for (const [node, one] of wanted) {
    if (buttons.has(node)) buttons.get(node).running = one
    else buttons.set(node, addButton(node, one))
  }
}

app.registerExtension({
  name: "masked_lora.finish",
  setup() {
    api.addEventListener("progress_state", ({ detail }) => update(runningNodes(detail)))
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, () => update([]))
  },
})
