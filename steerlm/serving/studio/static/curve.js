// SPDX-License-Identifier: Apache-2.0
// A line over the values of a dial; the numbers are in the table beside it.

import { svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [480, 260, 48, 16, 16, 40];

/** A chart of points [value of the dial, obtained]. `ideal`: draw the line where both are equal. */
export function curve({ points, low, high, bottom, top, xTitle, yTitle, ideal }) {
  const x = (value) => LEFT + ((value - low) / (high - low)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - bottom) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
  const text = (at, words, more = {}) => svg("text", { x: at[0], y: at[1], "text-anchor": "middle", ...more }, words);
  const ticks = points.map(([value]) => text([x(value), HEIGHT - BOTTOM + 16], String(value)));
  const levels = [bottom, (bottom + top) / 2, top].map((level) =>
    text([LEFT - 6, y(level) + 4], level.toFixed(1).replace(/\.0$/, ""), { "text-anchor": "end" }),
  );
  const line = points.map(([value, got]) => `${x(value).toFixed(1)},${y(got).toFixed(1)}`).join(" ");
  return svg(
    "svg",
    { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${yTitle} over ${xTitle}` },
    svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
    svg("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: HEIGHT - BOTTOM }),
    ...ticks,
    ...levels,
    text([(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6], xTitle),
    text([14, (TOP + HEIGHT - BOTTOM) / 2], yTitle, { transform: `rotate(-90 14 ${(TOP + HEIGHT - BOTTOM) / 2})` }),
    ideal ? svg("line", { class: "ideal", x1: x(low), y1: y(low), x2: x(high), y2: y(high) }) : null,
    svg("polyline", { class: "got", points: line }),
    ...points.map(([value, got]) => svg("circle", { cx: x(value), cy: y(got), r: 4 })),
  );
}
