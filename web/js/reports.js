// Shows on our output nodes what they report after a run. ComfyUI's page shows such texts on its own Preview nodes only.
import { app } from "../../../scripts/app.js"
import { reportLines } from "./report_lines.js"

const ours = (node) => String(node.comfyClass).startsWith("MaskedLoRA_")
const WIDGET = "masked_lora_report"
const LINE = 18 // pixels
const MOST_LINES = 6 // more are scrolled
const STYLE = "box-sizing: border-box; height: 100%; overflow: auto; overflow-wrap: anywhere; white-space: pre-wrap; user-select: text; "
  + `max-height: ${LINE * MOST_LINES + 8}px; padding: 4px 8px; border-radius: 6px; font: 12px/${LINE}px sans-serif; `
  + "color: var(--input-text); background: var(--comfy-input-bg);"

function addPanel(node) {
  const element = document.createElement("div")
  element.style.cssText = STYLE
  element.className = WIDGET
  // A wheel over a long report scrolls it; over a short one it zooms the canvas as everywhere.
  element.addEventListener("wheel", (event) => {
    if (element.scrollHeight > element.clientHeight) event.stopPropagation()
  }, { passive: true })
  const height = () => LINE * element.dataset.lines + 28
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height })
  widget.serialize = false
  return widget
}

/** @param {{ text?: string[] } | undefined} output what the node reported to the page */
function show(node, output) {
  const text = output?.text
  if (!Array.isArray(text) || !text.length) return
  const lines = text.flatMap((part) => reportLines(String(part)))
  const widget = node.widgets?.find(({ name }) => name === WIDGET) ?? addPanel(node)
  const { element } = widget
  const perLine = Math.max(20, node.size[0] / 7) // characters
  const height = lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / perLine)), 0)
  element.dataset.lines = String(Math.min(MOST_LINES, height))
  element.textContent = lines.join("\n")
  const [width, needed] = node.computeSize()
  if (node.size[0] < width || node.size[1] < needed) node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], needed)])
  node.setDirtyCanvas(true, true)
}

/** The node of a key of app.nodeOutputs: "7", or "<id of the subgraph>:7". */
function nodeAt(key) {
  const [id, subgraph] = String(key).split(":").reverse()
  const graph = subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph
  return graph?.getNodeById(id)
}

app.registerExtension({
  name: "masked_lora.reports",
  nodeCreated(node) {
    if (!ours(node)) return
    const before = node.onExecuted
    node.onExecuted = function (output) {
      before?.call(this, output)
      show(this, output)
    }
  },
  // The page restores results without a run: another tab of workflows, a job of the history.
  onNodeOutputsUpdated(outputs) {
    for (const [key, output] of Object.entries(outputs ?? {})) {
      const node = nodeAt(key)
      if (node && ours(node)) show(node, output)
    }
  },
})
