#!/bin/sh
# Makes plotly.min.js, beside this file, of what our figures draw with: plotly.js's core, which has scatter, and heat maps.
# Usage: make.sh VERSION, the version of plotly.js that plotly for Python brings. Needs npm and its registry.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts "plotly.js@$1" esbuild@0.28
cat > charts.js <<END
const plotly = require("plotly.js/lib/core");
plotly.register(require("plotly.js/lib/heatmap"));
module.exports = plotly;
END
npx esbuild charts.js --bundle --minify --format=iife --global-name=Plotly --target=es2020 \
  --define:global=window --define:define.amd=false --loader:.css=empty --log-level=error \
  --banner:js="/* plotly.js v$1 (scatter, heatmap), Copyright Plotly, Inc., MIT licence */" --outfile="$here/plotly.min.js"
cp node_modules/plotly.js/LICENSE "$here/LICENSE"
