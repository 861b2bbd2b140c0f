// What hangs on the wall. The id is the counter's target and the picture's file name.

export interface Photo {
  readonly id: string;
  readonly title: string;
  readonly by: string;
  readonly alt: string;
}

export const GALLERY: readonly Photo[] = [
  { id: "golden-hour", title: "Golden hour", by: "Mina", alt: "The sun setting over layered hills" },
  { id: "cheers", title: "To the two of you", by: "Jonas", alt: "Two glasses of sparkling wine clinking" },
  { id: "string-lights", title: "The garden, lit", by: "Aylin", alt: "Strings of light bulbs over a dusky garden" },
  { id: "the-cake", title: "Three tiers", by: "Oma Ruth", alt: "A three-tiered cake with lit candles" },
  { id: "dance-floor", title: "Just one more song", by: "DJ Tomás", alt: "A mirror ball throwing coloured beams" },
  { id: "bouquet", title: "Who caught it?", by: "Lea", alt: "A bouquet of pink, white and lilac flowers" },
  { id: "fireworks", title: "Midnight", by: "Sam", alt: "Fireworks above a skyline" },
  { id: "by-the-sea", title: "The morning after", by: "Noor", alt: "A striped parasol on a beach, a sailing boat behind" },
  { id: "balloons", title: "Up and away", by: "Felix", alt: "Five hot-air balloons over green hills" },
  { id: "moon-lake", title: "Quiet for a minute", by: "Ida", alt: "The moon mirrored in a mountain lake" },
  { id: "city-night", title: "The way home", by: "Ravi", alt: "City lights mirrored in a river at night" },
  { id: "misty-forest", title: "Early walk", by: "Greta", alt: "Pines fading into morning mist" },
];
