/** How many extra calls there may be: a share of the ordinary ones, so that trouble is not multiplied. */
export class Budget {
  readonly #reserve: number;
  #left: number;

  /** `reserve` is what is there at the start, and the most that is saved up. */
  constructor(reserve: number) {
    this.#reserve = reserve;
    this.#left = reserve;
  }

  /** How many there may be now. */
  get left(): number {
    return this.#left;
  }

  /** An ordinary call has been made: it earns `ratio` of an extra one. */
  earn(ratio: number): void {
    if (this.#left < this.#reserve) this.#left = Math.min(this.#left + ratio, this.#reserve);
  }

  /** Takes an extra call; false when there is none left. */
  take(): boolean {
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}
