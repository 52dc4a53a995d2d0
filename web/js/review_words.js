// What Review Masks asks the server and says of the masks. Pure: no page, no ComfyUI; tests/web_logic runs it with `node --test`.

/**
 * @typedef {{ set: string, picture: string, title: string, says: string, remarks: string[], review: "" | "accepted" | "redo", version: string,
 *   has_mask: boolean, rank: number }} Card
 */

const PATH = "/masked_lora/review"
const STATES = { "": "Not reviewed", accepted: "Accepted", redo: "To be made anew" }

/** "40 masks: 28 not reviewed, 10 accepted, 2 to be made anew" */
export function summary(cards) {
  const parts = Object.entries(STATES)
    .map(([review, words]) => [cards.filter((card) => card.review === review).length, words.toLowerCase()])
    .filter(([count]) => count)
  return `${cards.length} ${cards.length === 1 ? "mask" : "masks"}: ${parts.map((part) => part.join(" ")).join(", ")}`
}

export const stateWords = (review) => STATES[review] ?? STATES[""]

/**
 * The card as the server has it after a mark, also where it refused one because the mask is another now.
 * @param {{ value?: Card, problem?: string, answer?: any }} asked
 */
export const markedCard = ({ value, answer }, set) => {
  const card = value ?? answer?.card
  return card && { ...card, set }
}

/** What a press of "accepted" or "redo" means: pressed a second time it is taken back. */
export const pressed = (review, button) => (review === button ? "" : button)

export const tileAddress = ({ set, picture, version }) => `${PATH}/tile?${new URLSearchParams({ set, picture, version })}`

/** The address of a file by ComfyUI's name of it. */
export const viewAddress = (image) => `/view?${new URLSearchParams(image)}`

/**
 * Asks the server; a body is sent as JSON.
 * @param {(path: string, options?: object) => Promise<Response>} fetchApi
 * @returns {Promise<{ value?: any, problem?: string, answer?: any }>} what it answered; or why not in words, and what it sent with them
 */
export async function ask(fetchApi, name, query, body) {
  try {
    const path = `${PATH}/${name}${query ? `?${new URLSearchParams(query)}` : ""}`
    const answer = await (body === undefined ? fetchApi(path) : fetchApi(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }))
    const value = await answer.json().catch(() => ({}))
    return answer.ok ? { value } : { problem: value.error ?? `ComfyUI answered ${answer.status}.`, answer: value }
  } catch (error) {
    return { problem: `ComfyUI cannot be reached: ${error.message}` }
  }
}
