// Draws the figures of a page: the first at once, each other one when a reader comes near it or prints.
(async () => {
  const unpacked = part => {
    const text = atob(part.textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  };
  const figures = [...document.querySelectorAll(".figure:not(.js-plotly-plot)")], waiting = new Map();
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const options = {responsive: true, displaylogo: false, modeBarButtons: buttons};
  const refuse = error => figures.forEach(each => each.append("This browser cannot draw the figure: " + error));
  const draw = figure => {
    const drawing = waiting.get(figure);
    if (waiting.delete(figure)) return Plotly.newPlot(figure, drawing.data, drawing.layout, options).catch(refuse);
  };
  try {
    const script = document.createElement("script");
    script.textContent = await unpacked(document.getElementById("plotly"));
    document.head.append(script);
    // All before the first is drawn, since printing cannot wait.
    for (const each of figures) waiting.set(each, JSON.parse(await unpacked(each.nextElementSibling)));
    await draw(figures[0]);
    const near = new IntersectionObserver(
      changes => changes.forEach(each => each.isIntersecting && draw(each.target)), {rootMargin: "400px"});
    for (const each of waiting.keys()) near.observe(each);
    addEventListener("beforeprint", () => figures.forEach(draw));
  } catch (error) {
    refuse(error);
  }
})();
