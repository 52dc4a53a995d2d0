// The gallery on Review Masks: a card for each picture, with its buttons. It knows nothing of ComfyUI; review.js connects it.
import { pressed, stateWords, summary } from "./review_words.js"

const BATCH = 100 // cards drawn at once; more come when they are asked for
const KEYS = { a: "accepted", r: "redo", e: "edit" }
const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }
const BUTTONS = [
  ["accepted", "Accept", "This mask is right, or right that there is none: Write Masks leaves it alone (A)"],
  ["redo", "Redo", "Write Masks makes this mask anew in its next run (R)"],
  ["edit", "Edit", "Paint this mask in ComfyUI's mask editor; what is painted is learned (E)"],
]

function make(kind, className, text = "") {
  const element = document.createElement(kind)
  element.className = `masked_lora_review_${className}`
  element.textContent = text
  return element
}

/**
 * @typedef {{ tile: (card: object) => string, mark: (card: object, review: string) => Promise<object | undefined>,
 *   edit: (card: object) => Promise<void> }} Actions
 */
export class Gallery {
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions
    this.cards = []
    this.shown = 0
    this.element = make("section", "gallery")
    this.element.setAttribute("aria-label", "Masks of this folder")
    this.head = make("div", "head", "Run the graph to see the masks.")
    this.head.setAttribute("role", "status")
    this.list = make("ul", "list")
    this.list.setAttribute("role", "list")
    this.more = make("button", "more")
    this.more.type = "button"
    this.more.hidden = true
    this.more.addEventListener("click", () => this.draw())
    this.body = make("div", "body")
    this.body.hidden = true
    this.body.append(this.list, this.more)
    this.element.append(this.head, this.body)
    // A press is not dragging the node. A wheel over a long list scrolls it; over a short one it zooms the canvas as everywhere.
    this.element.addEventListener("pointerdown", (event) => event.stopPropagation())
    this.body.addEventListener("wheel", (event) => {
      if (this.body.scrollHeight > this.body.clientHeight) event.stopPropagation()
    }, { passive: true })
    this.list.addEventListener("keydown", (event) => this.onKey(event))
  }

  say(text) {
    this.head.textContent = text
  }

  /** @param {object[]} cards in the order in which they are shown */
  show(cards) {
    this.cards = cards
    this.shown = 0
    this.body.hidden = !cards.length
    this.list.replaceChildren()
    this.draw()
    this.body.scrollTop = 0
    this.say(cards.length ? summary(cards) : "Write Masks has made no masks in this folder yet.")
  }

  draw() {
    const end = Math.min(this.cards.length, this.shown + BATCH)
    this.list.append(...this.cards.slice(this.shown, end).map((card, index) => this.drawCard(card, this.shown + index)))
    this.shown = end
    const left = this.cards.length - end
    this.more.hidden = !left
    this.more.textContent = `Show ${Math.min(BATCH, left)} more of ${left}`
  }

  drawCard(card, index) {
    const item = make("li", "card")
    item.dataset.index = index
    const picture = make("img", "picture")
    picture.loading = "lazy"
    picture.decoding = "async"
    picture.draggable = false
    const title = make("div", "title", card.title)
    title.title = card.picture
    const row = make("div", "buttons")
    for (const [name, words, help] of BUTTONS) {
      const button = make("button", name, words)
      button.type = "button"
      button.title = help
      button.dataset.action = name
      button.setAttribute("aria-label", `${words} ${card.title}`)
      button.addEventListener("click", () => this.act(index, name))
      row.append(button)
    }
    item.append(picture, title, make("div", "says"), make("div", "remarks"), make("div", "state"), row)
    this.refresh(item, card)
    return item
  }

  refresh(item, card) {
    item.dataset.review = card.review
    item.dataset.rank = card.rank
    const find = (name) => item.querySelector(`.masked_lora_review_${name}`)
    const [picture, address] = [find("picture"), this.actions.tile(card)]
    if (picture.getAttribute("src") !== address) picture.src = address
    picture.alt = card.has_mask ? `${card.title}; what is learned has its colours, the rest is dark` : `${card.title}, without a mask`
    find("says").textContent = card.says
    find("remarks").textContent = card.remarks.join("; ")
    find("remarks").title = card.remarks.join("\n")
    find("state").textContent = stateWords(card.review)
    for (const name of ["accepted", "redo"]) find(name).setAttribute("aria-pressed", String(card.review === name))
  }

  /** A card as the server has it now. */
  update(card) {
    const index = this.cards.findIndex(({ set, picture }) => set === card.set && picture === card.picture)
    if (index < 0) return
    this.cards[index] = card
    const item = this.list.children[index]
    if (item) this.refresh(item, card)
    this.say(summary(this.cards))
  }

  async act(index, name) {
    const card = this.cards[index]
    if (name === "edit") return this.actions.edit(card)
    const changed = await this.actions.mark(card, pressed(card.review, name))
    if (changed) this.update(changed)
  }

  /** A, R and E for the card that has the focus, arrows for the cards around it; accepting by key goes on to the next one. */
  async onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return
    const item = event.target.closest("li")
    const [action, move] = [KEYS[event.key.toLowerCase()], MOVES[event.key]]
    if (!item || !(action || move)) return
    event.preventDefault()
    event.stopPropagation() // R and arrows mean something to the canvas too
    const index = Number(item.dataset.index)
    if (move) return this.focus(index + move, event.target.dataset.action)
    const accepting = action === "accepted" && this.cards[index].review !== action
    await this.act(index, action)
    if (accepting && this.cards[index].review === action) this.focus(index + 1, event.target.dataset.action)
  }

  focus(index, action = "accepted") {
    if (index >= this.shown) this.draw()
    const item = this.list.children[index]
    item?.querySelector(`[data-action="${action}"]`).focus()
    item?.scrollIntoView({ block: "nearest" })
  }
}
