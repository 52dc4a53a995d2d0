// Reports of our nodes in words. Pure: no page, no ComfyUI; tests/web_logic runs it with `node --test`.

const number = (value, digits = 3) => (Number.isFinite(value) ? value.toPrecision(digits) : "unknown")

/** 95 -> "1:35", 3700 -> "1:01:40" */
export function duration(seconds) {
  const whole = Math.round(seconds)
  const two = (value) => String(value).padStart(2, "0")
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`
}

function training(report) {
  const { total_seconds, seconds_per_step, peak_rss_mb, outcome, warning } = report
  const lines = outcome ? [outcome[0].toUpperCase() + outcome.slice(1)] : []
  if (seconds_per_step != null) {
    const done = Math.round(total_seconds / seconds_per_step) // a resumed run has more steps than were done now
    const speed = `${done} steps in ${duration(total_seconds)}, ${number(seconds_per_step, 2)} s a step`
    lines.push(peak_rss_mb == null ? speed : `${speed}, peak ${(peak_rss_mb / 1024).toFixed(1)} GB RAM`)
  }
  for (const where of ["inside", "outside"]) {
    const [first, last] = [report[`loss_${where}_first`], report[`loss_${where}_last`]]
    if (first != null && last != null) lines.push(`Loss ${where} the masks: ${number(first)} at first, ${number(last)} at last`)
  }
  if (warning) lines.push(warning)
  return lines
}

function drift({ drift_inside: inside, drift_outside: outside }) {
  const lines = [`Change inside the masks: ${number(inside)}`, `Change outside the masks: ${number(outside)}`]
  if (inside > 0 && outside > 0) lines.push(`${number(inside / outside, 2)} times as much inside as outside`)
  return lines
}

/**
 * The lines that a node shows for its report: JSON of one of our nodes becomes words, any other text stays as it is.
 * @param {string} text
 * @returns {string[]}
 */
export function reportLines(text) {
  let report
  try {
    report = JSON.parse(text)
  } catch {
    return text.split("\n")
  }
  if (report === null || typeof report !== "object") return [text]
  const lines = []
  if ("total_seconds" in report) lines.push(...training(report))
  if ("drift_inside" in report) lines.push(...drift(report))
  if ("file" in report) lines.push(`Saved as ${report.file} in the output folder`)
  if ("says" in report) lines.push(`Text padding: ${report.says}`)
  if (Array.isArray(report.notes)) lines.push(...report.notes.map(String))
  return lines.length ? lines : [text]
}
