// A picture small enough to send, from a file or drawn by chance: 480 × 360, as a JPEG in a data URL.

import { MAX_CHARS } from "./album";

const W = 480;
const H = 360;
const QUALITIES = [0.82, 0.7, 0.55, 0.4, 0.25];

function canvas(): { element: HTMLCanvasElement; pen: CanvasRenderingContext2D } {
  const element = document.createElement("canvas");
  element.width = W;
  element.height = H;
  const pen = element.getContext("2d");
  if (!pen) throw new Error("this browser cannot draw");
  return { element, pen };
}

function asJpeg(element: HTMLCanvasElement): string {
  for (const quality of QUALITIES) {
    const src = element.toDataURL("image/jpeg", quality);
    if (src.length <= MAX_CHARS) return src;
  }
  throw new Error("the picture cannot be made small enough");
}

/** The middle of a picture file, cut to the wall's shape. */
export async function fromFile(file: Blob): Promise<string> {
  const image = await createImageBitmap(file).catch(() => { throw new Error("this file is not a picture that the browser can read"); });
  const { element, pen } = canvas();
  const scale = Math.max(W / image.width, H / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, W, H);
  pen.drawImage(image, (W - w) / 2, (H - h) / 2, w, h);
  image.close();
  return asJpeg(element);
}

/** An evening by chance: sky, sun or moon, hills, and lights. No two are the same. */
export function drawn(random: () => number = Math.random): string {
  const { element, pen } = canvas();
  const between = (low: number, high: number) => low + random() * (high - low);
  const hue = between(0, 360);
  const sky = pen.createLinearGradient(0, 0, 0, H);
  sky.addColorStop(0, `hsl(${hue} 45% 28%)`);
  sky.addColorStop(0.6, `hsl(${hue + 50} 60% 60%)`);
  sky.addColorStop(1, `hsl(${hue + 80} 85% 80%)`);
  pen.fillStyle = sky;
  pen.fillRect(0, 0, W, H);

  const [x, y] = [between(90, W - 90), between(90, 190)];
  const glow = pen.createRadialGradient(x, y, 10, x, y, 150);
  glow.addColorStop(0, "rgb(255 246 215 / .95)");
  glow.addColorStop(0.16, "rgb(255 240 200 / .55)");
  glow.addColorStop(1, "rgb(255 240 200 / 0)");
  pen.fillStyle = glow;
  pen.fillRect(0, 0, W, H);

  for (let layer = 0; layer < 4; layer++) {
    const base = 220 + layer * 38;
    pen.fillStyle = `hsl(${hue + 20 - layer * 6} ${38 - layer * 4}% ${42 - layer * 9}%)`;
    pen.beginPath();
    pen.moveTo(0, H);
    const [swing, phase, width] = [between(12, 30), between(0, 6), between(50, 90)];
    for (let step = 0; step <= W; step += 8) pen.lineTo(step, base - Math.sin(step / width + phase) * swing);
    pen.lineTo(W, H);
    pen.fill();
  }
  for (let light = 0; light < 46; light++) {
    pen.fillStyle = `hsl(${between(30, 60)} 95% 75% / ${between(0.15, 0.8)})`;
    pen.beginPath();
    pen.arc(between(0, W), between(236, H), between(1.5, 6.5), 0, Math.PI * 2);
    pen.fill();
  }
  return asJpeg(element);
}
