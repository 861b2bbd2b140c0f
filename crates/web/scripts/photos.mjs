// The demo's twelve "photos": small drawn scenes, made from a seed so that every build makes the same bytes.

const W = 480;
const H = 360;

/** mulberry32: small, even enough for scattering leaves. */
function randomFrom(seed) {
  let state = seed;
  return (low = 0, high = 1) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return low + (((t ^ (t >>> 14)) >>> 0) / 4294967296) * (high - low);
  };
}

const n = (value) => String(Math.round(value * 10) / 10);
const times = (count, make) => Array.from({ length: count }, (_, i) => make(i)).join("");
const rect = (x, y, w, h, fill, more = "") => `<rect x="${n(x)}" y="${n(y)}" width="${n(w)}" height="${n(h)}" fill="${fill}"${more}/>`;
const circle = (x, y, r, fill, more = "") => `<circle cx="${n(x)}" cy="${n(y)}" r="${n(r)}" fill="${fill}"${more}/>`;
const path = (d, fill, more = "") => `<path d="${d}" fill="${fill}"${more}/>`;
const opacity = (value) => ` opacity="${n(value)}"`;

function gradient(id, stops, vertical = true) {
  const to = vertical ? 'x2="0" y2="1"' : 'x2="1" y2="0"';
  return `<linearGradient id="${id}" x1="0" y1="0" ${to}>${stops.map((color, i) => `<stop offset="${n((i / (stops.length - 1)) * 100)}%" stop-color="${color}"/>`).join("")}</linearGradient>`;
}
const glow = (id, color) => `<radialGradient id="${id}"><stop offset="0" stop-color="${color}"/><stop offset="1" stop-color="${color}" stop-opacity="0"/></radialGradient>`;

const sky = (...stops) => `<defs>${gradient("sky", stops)}</defs>${rect(0, 0, W, H, "url(#sky)")}`;

/** A soft ridge across the picture, filled down to the ground. */
function ridge(random, y, height, fill, steps = 8) {
  const points = Array.from({ length: steps + 1 }, (_, i) => [(i * W) / steps, y - random(0, height)]);
  let d = `M0 ${H}L0 ${n(points[0][1])}`;
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1];
    const [x1, y1] = points[i];
    const middle = (x0 + x1) / 2;
    d += `C${n(middle)} ${n(y0)} ${n(middle)} ${n(y1)} ${n(x1)} ${n(y1)}`;
  }
  return path(`${d}L${W} ${H}Z`, fill);
}

function pine(x, base, height, fill) {
  const w = height * 0.22;
  return path(`M${n(x)} ${n(base - height)}l${n(w * 0.6)} ${n(height * 0.4)}h${n(-w * 0.25)}l${n(w * 0.55)} ${n(height * 0.35)}h${n(-w * 0.3)}l${n(w * 0.5)} ${n(height * 0.25)}h${n(-w * 2.2)}l${n(w * 0.5)} ${n(-height * 0.25)}h${n(-w * 0.3)}l${n(w * 0.55)} ${n(-height * 0.35)}h${n(-w * 0.25)}Z`, fill);
}

const stars = (random, count, low) => times(count, () => circle(random(0, W), random(0, low), random(0.4, 1.4), "#fff", opacity(random(0.3, 0.9))));
const bokeh = (random, count, colors, top = 0, bottom = H) =>
  times(count, () => circle(random(0, W), random(top, bottom), random(8, 34), colors[Math.floor(random(0, colors.length))], opacity(random(0.12, 0.45))));

function skyline(random, base, fill, windows) {
  let out = "";
  for (let x = -10; x < W; ) {
    const w = random(26, 58);
    const h = random(50, 150);
    out += rect(x, base - h, w, h + H - base, fill);
    for (let wx = x + 6; wx < x + w - 7; wx += 9) {
      for (let wy = base - h + 8; wy < base - 6; wy += 12) if (random() < 0.42) out += rect(wx, wy, 4, 6, windows, opacity(random(0.4, 1)));
    }
    x += w + random(0, 5);
  }
  return out;
}

const SCENES = {
  "golden-hour": (r) =>
    `<defs>${glow("sun", "#fff3c4")}</defs>${sky("#5b6cae", "#e58f83", "#ffc98b", "#ffe7b8")}${circle(318, 196, 150, "url(#sun)")}${circle(318, 196, 30, "#fff6d8")}` +
    ridge(r, 236, 46, "#c9818a", 6) + ridge(r, 268, 40, "#9a5f7c", 7) + ridge(r, 304, 42, "#6a4269", 6) + ridge(r, 340, 34, "#3c2a4a", 8),

  "string-lights": (r) => {
    const wire = (y, sag, count) => {
      const at = (t) => [t * W, y + sag * 4 * t * (1 - t)];
      return `<path d="M0 ${y}Q${W / 2} ${y + sag * 2} ${W} ${y}" fill="none" stroke="#1b1830" stroke-width="1.6"/>` +
        times(count, (i) => { const [x, ly] = at((i + 0.5) / count); return circle(x, ly + 7, 20, "url(#bulb)") + circle(x, ly + 7, 4.2, "#fff1c9"); });
    };
    return `<defs>${glow("bulb", "#ffcf7a")}</defs>${sky("#1d2350", "#4a3a72", "#b2617a", "#f0a07c")}` + stars(r, 40, 130) + ridge(r, 300, 90, "#3a2a55", 12) +
      wire(50, 48, 13) + wire(104, 62, 11) + wire(20, 20, 9) + ridge(r, 352, 60, "#191530", 14);
  },

  "cheers": (r) => {
    const flute = (x, tilt, wine) => `<g transform="translate(${x} 92) rotate(${tilt} 0 110)">` +
      path("M-27 0C-30 74 -24 116 0 120C24 116 30 74 27 0Z", "#fff", opacity(0.28)) + path("M-28 34C-28 84 -22 113 0 116C22 113 28 84 28 34Z", wine, opacity(0.9)) +
      rect(-2.5, 118, 5, 86, "#fff", opacity(0.5)) + `<ellipse cx="0" cy="206" rx="30" ry="6" fill="#fff" opacity="0.5"/>` +
      times(15, () => circle(r(-18, 18), r(42, 106), r(1, 2.6), "#fff", opacity(r(0.5, 0.9)))) + `<path d="M-20 8C-22 50 -20 80 -13 98" stroke="#fff" stroke-width="3" fill="none" opacity="0.5" stroke-linecap="round"/></g>`;
    return sky("#2b1a3a", "#6d2f4f", "#c96a58") + bokeh(r, 34, ["#ffd08a", "#ff9f7a", "#ffe6bd", "#f277a0"]) + flute(196, 14, "#ffd979") + flute(286, -14, "#ffc46b");
  },

  "dance-floor": (r) =>
    `<defs>${glow("beam", "#fff")}<radialGradient id="ball" cx=".35" cy=".3"><stop offset="0" stop-color="#fff"/><stop offset=".5" stop-color="#b6b7e8"/><stop offset="1" stop-color="#4a3f86"/></radialGradient></defs>${sky("#150f3d", "#3b1d77", "#8a2f9c")}` +
    times(9, (i) => path(`M240 96L${n(-60 + i * 75)} ${H}h${n(r(26, 54))}Z`, ["#ff7ac6", "#7ad7ff", "#ffe07a"][i % 3], opacity(r(0.14, 0.28)))) + bokeh(r, 26, ["#ff8ad0", "#8ad9ff", "#ffe48f"], 180, H) +
    rect(238.5, 0, 3, 50, "#cfcff5") + circle(240, 96, 100, "url(#beam)", opacity(0.25)) + circle(240, 96, 48, "url(#ball)") +
    times(5, (i) => `<ellipse cx="240" cy="96" rx="48" ry="${n(8 + i * 9)}" fill="none" stroke="#2c2466" stroke-opacity=".35"/><ellipse cx="240" cy="96" rx="${n(8 + i * 9)}" ry="48" fill="none" stroke="#2c2466" stroke-opacity=".35"/>`),

  "moon-lake": (r) => {
    const back = ridge(r, 214, 128, "#41588c", 5);
    const front = ridge(r, 214, 66, "#263a66", 7);
    return `<defs>${glow("moon", "#dfeaff")}${gradient("lake", ["#3a5486", "#101a38"])}</defs>${sky("#0b1230", "#223a70", "#6f8fc4", "#bcd0ea")}` + stars(r, 90, 150) + circle(352, 82, 96, "url(#moon)", opacity(0.6)) + circle(352, 82, 26, "#f7faff") +
      back + front + rect(0, 214, W, H - 214, "url(#lake)") + times(26, (i) => { const w = r(10, 60) * (1 - i / 40); return rect(352 - w / 2 + r(-10, 10), 222 + i * 5.2, w, 1.8, "#eaf2ff", opacity(r(0.25, 0.75))); }) +
      times(7, () => pine(r(0, 130), r(340, 372), r(70, 140), "#0a1126"));
  },

  "fireworks": (r) => {
    const burst = (x, y, radius, color) => times(26, (i) => {
      const a = (i / 26) * Math.PI * 2;
      const far = radius * r(0.75, 1);
      return `<path d="M${n(x + Math.cos(a) * radius * 0.2)} ${n(y + Math.sin(a) * radius * 0.2)}Q${n(x + Math.cos(a) * far * 0.7)} ${n(y + Math.sin(a) * far * 0.7)} ${n(x + Math.cos(a) * far)} ${n(y + Math.sin(a) * far + 9)}" stroke="${color}" stroke-width="1.8" stroke-linecap="round" fill="none" opacity="${n(r(0.5, 1))}"/>` + circle(x + Math.cos(a) * far, y + Math.sin(a) * far + 9, 1.9, "#fff");
    }) + circle(x, y, radius * 1.1, "url(#boom)", opacity(0.25));
    return `<defs>${glow("boom", "#ffe9c9")}</defs>${sky("#070a22", "#191a4a", "#4a2a63")}` + stars(r, 50, 200) + burst(140, 118, 84, "#ffb45e") + burst(330, 92, 70, "#ff6fa8") + burst(256, 186, 52, "#7fd6ff") + burst(420, 186, 40, "#b6f28a") + skyline(r, 352, "#0b0d24", "#ffd98a");
  },

  "bouquet": (r) => {
    const flower = (x, y, size, petal, heart) => times(9, (i) => `<ellipse cx="${n(x)}" cy="${n(y - size * 0.62)}" rx="${n(size * 0.3)}" ry="${n(size * 0.58)}" fill="${petal}" opacity=".93" transform="rotate(${i * 40} ${n(x)} ${n(y)})"/>`) + circle(x, y, size * 0.32, heart);
    const colors = [["#f6a6b8", "#fff0c2"], ["#fff3ee", "#f3c969"], ["#e8708c", "#ffe0a6"], ["#f9c9a9", "#c9774f"], ["#cdb4e6", "#fff3c4"]];
    return sky("#e9efe4", "#cfdccb", "#a9c0a8") + bokeh(r, 18, ["#fff", "#dfeedb", "#f7dfe3"]) +
      times(34, () => { const x = r(60, 420); const y = r(120, 330); return `<ellipse cx="${n(x)}" cy="${n(y)}" rx="9" ry="${n(r(26, 52))}" fill="${["#5f8a63", "#7ba57a", "#3f6b4e"][Math.floor(r(0, 3))]}" transform="rotate(${n(r(-80, 80))} ${n(x)} ${n(y)})"/>`; }) +
      [[240, 196, 66], [150, 172, 50], [330, 170, 52], [196, 270, 48], [292, 272, 50], [236, 108, 44], [108, 252, 36], [376, 254, 38]].map(([x, y, s], i) => flower(x, y, s, ...colors[i % 5])).join("");
  },

  "by-the-sea": (r) =>
    `<defs>${gradient("sea", ["#5fb6c9", "#2d7f9f", "#1c5a7d"])}${gradient("sand", ["#f6dfb4", "#e2bd85"])}</defs>${sky("#7cc4e8", "#bfe4f2", "#fdeed3")}` + circle(104, 84, 34, "#fff6d2") + times(4, (i) => `<ellipse cx="${n(210 + i * 74)}" cy="${n(66 + r(-18, 26))}" rx="${n(r(34, 58))}" ry="${n(r(8, 13))}" fill="#fff" opacity=".8"/>`) +
    rect(0, 172, W, 120, "url(#sea)") + times(30, () => rect(r(-20, W), r(178, 262), r(14, 64), 1.8, "#fff", opacity(r(0.2, 0.6)))) + path(`M262 171l34 0l-6 10h-24Z`, "#7d4b32") + path("M280 112v56h-34Z", "#fff") + path("M284 122v46h24Z", "#ffe3d1") +
    path(`M0 282C80 262 150 296 240 280S410 262 ${W} 284V${H}H0Z`, "#fff", opacity(0.75)) + path(`M0 292C80 272 150 306 240 290S410 272 ${W} 294V${H}H0Z`, "url(#sand)") +
    `<g transform="rotate(-12 372 330)">${rect(370, 206, 4, 130, "#8a6442")}${path("M300 226a72 60 0 0 1 144 0Z", "#e9635c")}${path("M324 226a48 60 0 0 1 24 -52 72 60 0 0 0 0 52ZM396 226a48 60 0 0 0 -24 -60 0 60 0 0 1 0 60Z", "#fff4e6")}</g>`,

  "city-night": (r) =>
    `<defs>${gradient("water", ["#2a2560", "#0b0c24"])}</defs>${sky("#0d1033", "#2b2668", "#7d3f86", "#e07f7d")}` + stars(r, 60, 140) + circle(96, 70, 20, "#fff0d8", opacity(0.9)) + `<g opacity=".55">${skyline(r, 250, "#3b2d6b", "#ffcf8a")}</g>` + skyline(r, 282, "#141236", "#ffd98f") +
    rect(0, 282, W, 78, "url(#water)") + times(60, () => rect(r(0, W), r(286, 356), r(4, 26), 1.6, r() < 0.7 ? "#ffd28a" : "#ff8f9f", opacity(r(0.15, 0.7)))),

  "the-cake": (r) => {
    const tier = (y, w, h, fill) => rect(240 - w / 2, y, w, h, fill, ` rx="9"`) + path(`M${240 - w / 2} ${y + 8}` + times(Math.round(w / 22), (i) => `q11 ${n(i % 2 ? 24 : 16)} 22 0`) + `V${y}H${240 - w / 2}Z`, "#fffaf2");
    const candle = (x) => rect(x - 2.5, 66, 5, 32, "#f2a2b6") + circle(x, 56, 24, "url(#flame)") + path(`M${x} 44c7 9 6 18 0 20c-6 -2 -7 -11 0 -20Z`, "#ffc44d");
    return `<defs>${glow("flame", "#ffe3a0")}</defs>${sky("#40304f", "#7b4a63", "#d98d79")}` + bokeh(r, 30, ["#ffd59a", "#ffb0a0", "#fff0d0"], 0, 260) + rect(0, 306, W, 54, "#4a2f38") + `<ellipse cx="240" cy="310" rx="152" ry="15" fill="#f7eee2"/>` +
      tier(226, 236, 82, "#f5b9c0") + tier(156, 172, 74, "#f8d3c4") + tier(96, 110, 64, "#f9e4d6") + [208, 240, 272].map(candle).join("") +
      times(22, () => circle(r(132, 348), r(262, 300), r(2, 4.4), ["#e56b86", "#fff", "#ffd166"][Math.floor(r(0, 3))]));
  },

  "balloons": (r) => {
    const balloon = (x, y, s, a, b) => `<g transform="translate(${x} ${y}) scale(${s})">` + path("M0 -60C38 -60 56 -34 56 -8C56 26 22 48 12 62H-12C-22 48 -56 26 -56 -8C-56 -34 -38 -60 0 -60Z", a) + path("M0 -60C14 -60 22 -34 22 -8C22 26 10 48 6 62H-6C-10 48 -22 26 -22 -8C-22 -34 -14 -60 0 -60Z", b) +
      `<path d="M-10 63L-7 80M10 63L7 80" stroke="#5b4636" stroke-width="1.4"/>` + rect(-9, 80, 18, 13, "#8a5f3c", ` rx="2"`) + "</g>";
    return sky("#6fb7ea", "#b5dcf2", "#ffeccd") + times(7, () => `<ellipse cx="${n(r(0, W))}" cy="${n(r(30, 230))}" rx="${n(r(40, 80))}" ry="${n(r(8, 14))}" fill="#fff" opacity=".7"/>`) + ridge(r, 318, 52, "#93b7a0", 6) + ridge(r, 350, 44, "#5f8f7a", 7) +
      balloon(150, 130, 1.25, "#e8604c", "#f9b25e") + balloon(332, 92, 0.85, "#3f7fbf", "#8fd0e8") + balloon(404, 208, 0.55, "#f2b632", "#fff0c9") + balloon(262, 226, 0.48, "#8d5fb0", "#e3b5e8") + balloon(52, 236, 0.36, "#4fae8a", "#d6f2c9");
  },

  "misty-forest": (r) =>
    sky("#dfe9e6", "#b9cfca", "#8fb0ab") + circle(336, 74, 30, "#fffbe9", opacity(0.8)) +
    [["#a5c1bb", 200, 96], ["#7fa49f", 246, 118], ["#527f7c", 296, 140], ["#2b5557", 346, 170], ["#12302f", 396, 190]].map(([fill, base, height], layer) =>
      ridge(r, base + 8, 14, fill, 9) + times(15, (i) => pine((i + r(0.1, 0.9)) * (W / 15), base + r(4, 22), height * r(0.55, 1), fill)) + (layer < 4 ? rect(0, base - 30, W, 60, "#e8f0ee", opacity(0.16)) : "")).join(""),
};

/** Every scene, as an SVG document. */
export function photos() {
  return Object.entries(SCENES).map(([name, draw], i) => ({
    name,
    svg: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${W} ${H}" width="${W}" height="${H}">${draw(randomFrom(1000 + i * 77))}</svg>\n`,
  }));
}
