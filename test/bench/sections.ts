/** The sections of docs/benchmarks.md that runs of their own write, each replaced without touching the others. */

/** The document with this section instead of the one of the same heading, or with it at the end. */
export function withSection(document: string, section: string): string {
  const heading = section.slice(0, section.indexOf("\n"));
  const others = split(document);
  const known = others.findIndex((part) => part.startsWith(`${heading}\n`));
  if (known < 0) others.push(section);
  else others[known] = section;
  return `${others.map((part) => part.trim()).join("\n\n")}\n`;
}

/** The sections of `document` that begin with one of these headings. */
export function sectionsOf(document: string, headings: readonly string[]): string[] {
  return split(document).filter((part) => headings.some((heading) => part.startsWith(`${heading}\n`)));
}

function split(document: string): string[] {
  return document.split(/\n(?=## )/);
}
