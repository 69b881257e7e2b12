// Keeps the films of a clip at the same frame, and lets the reader stop and step them.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const clip of document.querySelectorAll(".clip")) {
  const films = [...clip.querySelectorAll("video")];
  const [first] = films;
  const controls = clip.querySelector(".controls");
  const button = controls.querySelector("button");
  const slider = controls.querySelector("input");
  let playing = true;
  const set = (play) => {
    playing = play;
    button.textContent = play ? "Pause" : "Play";
    for (const film of films) {
      if (!play) film.currentTime = first.currentTime;
      play ? film.play().catch(() => {}) : film.pause();
    }
  };
  button.addEventListener("click", () => set(!playing));
  slider.addEventListener("input", () => {
    set(false);
    for (const film of films) film.currentTime = (slider.value / 1000) * first.duration;
  });
  first.addEventListener("timeupdate", () => {
    if (!playing || !first.duration) return;
    slider.value = (1000 * first.currentTime) / first.duration;
    for (const film of films) {
      const apart = Math.abs(film.currentTime - first.currentTime);
      // Browsers pause films that are out of sight; to seek those would keep them from loading.
      if (!film.paused && apart > 0.09 && apart < first.duration - 0.3) {
        film.currentTime = first.currentTime;
      }
    }
  });
  controls.hidden = false;
  if (still) set(false);
}
// Test videos are of different lengths: they only start and stop together.
for (const answers of document.querySelectorAll(".answers")) {
  const films = [...answers.querySelectorAll("video")];
  const controls = answers.querySelector(".controls");
  const button = controls.querySelector("button");
  let playing = true;
  const set = (play) => {
    playing = play;
    button.textContent = play ? "Pause" : "Play";
    for (const film of films) play ? film.play().catch(() => {}) : film.pause();
  };
  button.addEventListener("click", () => set(!playing));
  controls.hidden = false;
  if (still) set(false);
}
