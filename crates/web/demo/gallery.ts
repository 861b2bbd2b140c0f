// What hangs on the wall. The id is the target of likes and comments.

export interface Photo {
  readonly id: string;
  readonly title: string;
  readonly by: string;
  readonly alt: string;
  /** Where the picture is; undefined while it is still being fetched. */
  readonly src: string | undefined;
}

const drawn = (id: string, title: string, by: string, alt: string): Photo => ({ id, title, by, alt, src: `/demo/photos/${id}.svg` });

export const GALLERY: readonly Photo[] = [
  drawn("golden-hour", "Golden hour", "Mina", "The sun setting over layered hills"),
  drawn("cheers", "To the two of you", "Jonas", "Two glasses of sparkling wine clinking"),
  drawn("string-lights", "The garden, lit", "Aylin", "Strings of light bulbs over a dusky garden"),
  drawn("the-cake", "Three tiers", "Oma Ruth", "A three-tiered cake with lit candles"),
  drawn("dance-floor", "Just one more song", "DJ Tomás", "A mirror ball throwing coloured beams"),
  drawn("bouquet", "Who caught it?", "Lea", "A bouquet of pink, white and lilac flowers"),
  drawn("fireworks", "Midnight", "Sam", "Fireworks above a skyline"),
  drawn("by-the-sea", "The morning after", "Noor", "A striped parasol on a beach, a sailing boat behind"),
  drawn("balloons", "Up and away", "Felix", "Five hot-air balloons over green hills"),
  drawn("moon-lake", "Quiet for a minute", "Ida", "The moon mirrored in a mountain lake"),
  drawn("city-night", "The way home", "Ravi", "City lights mirrored in a river at night"),
  drawn("misty-forest", "Early walk", "Greta", "Pines fading into morning mist"),
];
