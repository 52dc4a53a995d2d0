// Which trainings go on, and asking one to finish. Pure: no page, no ComfyUI; tests/web_logic runs it with `node --test`.

/** @typedef {{ promptId: string, nodeId: string }} Running nodeId is the execution id: "7", or "3:7" inside a subgraph. */

/**
 * The nodes that run, from the detail of ComfyUI's progress_state message.
 * @returns {Running[]}
 */
export function runningNodes(detail) {
  const states = Object.values(detail?.nodes ?? {})
  return states.filter(({ state }) => state === "running")
    .map(({ node_id, prompt_id }) => ({ nodeId: String(node_id), promptId: String(prompt_id ?? detail.prompt_id) }))
}

/** The node of an execution id: each part but the last is a subgraph's node. */
export function findNode(rootGraph, nodeId) {
  const parts = String(nodeId).split(":")
  const last = parts.pop()
  let graph = rootGraph
  for (const part of parts) graph = graph?.getNodeById(part)?.subgraph
  return graph?.getNodeById(last) ?? undefined
}

/**
 * Asks a training to finish after its step.
 * @param {(path: string, options: object) => Promise<Response>} fetchApi
 * @param {Running} running
 * @returns {Promise<string>} empty if it will, else why not
 */
export async function finish(fetchApi, { promptId, nodeId }) {
  try {
    const answer = await fetchApi("/masked_lora/finish", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ prompt_id: promptId, node_id: nodeId }),
    })
    if (answer.ok) return ""
    if (answer.status === 404) return "No step is done yet, or the training has ended."
    return `ComfyUI answered ${answer.status}.`
  } catch (error) {
    return `ComfyUI cannot be reached: ${error.message}`
  }
}
