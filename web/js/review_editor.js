// ComfyUI's own mask editor on a file that is no node's. Pure: no page, no ComfyUI; tests/web_logic runs it with `node --test`.

/**
 * Opens the editor. It works for a node: it reads `images[0]` and `imgs`, and gives `images` the file that it saved.
 * @param {object} ComfyApp the page's class, with the opening that it has for packs
 * @param {{ filename: string, subfolder: string, type: string }} image the file to be edited
 * @param {object} picture something in place of the node's drawn picture; only that there is one counts
 * @param {(image: object) => void} saved called with the file that the editor saved; never if the person cancels
 * @returns {string} empty, or why it cannot be opened
 */
export function openMaskEditor(ComfyApp, image, picture, saved) {
  if (typeof ComfyApp?.open_maskeditor !== "function") return "This ComfyUI offers no way to open its mask editor."
  const before = ComfyApp.clipspace_return_node
  ComfyApp.clipspace_return_node = standIn(image, picture, saved)
  try {
    ComfyApp.open_maskeditor()
  } finally {
    ComfyApp.clipspace_return_node = before
  }
  return ""
}

/** Not a node of the graph: the editor would put its picture on that and into the workflow. */
export function standIn(image, picture, saved) {
  let images = [image]
  return {
    id: "", // of no node, so that nothing is noted among the outputs of nodes
    type: "MaskedLoRA_ReviewMasks",
    widgets: [],
    properties: {},
    imgs: [picture],
    imageIndex: 0,
    get images() {
      return images
    },
    set images(value) {
      images = value
      if (value?.[0]) saved({ ...value[0] })
    },
  }
}
