import { readFileSync } from 'node:fs'
import { dirname, relative, resolve } from 'node:path'
import neostandard from 'neostandard'

const LIB = resolve(import.meta.dirname, 'lib')
/** From the top down: an import runs downwards, or stays within its layer. Nobody imports redis/ and client/. */
const LAYERS = ['index.ts', 'fastify', 'registry', 'delivery', 'stream', 'redis', 'log', 'wire', 'client', 'options.ts', 'checks.ts', 'errors.ts']
const CLOSED = ['redis', 'client']
const layerOf = file => relative(LIB, file).split('/')[0]

/** What a file of lib/ imports from lib/, types included. */
function importsOf (file) {
  const sources = readFileSync(file, 'utf8').matchAll(/^(?:import|export)\b[^'"]*?from '(\.[^']+)'/gm)
  return [...sources].map(([, source]) => resolve(dirname(file), source))
}

/** The way from one file back to itself, or undefined. */
function circle (file, from = file, seen = new Set()) {
  for (const next of importsOf(from)) {
    if (next === file) return [from]
    if (seen.has(next)) continue
    seen.add(next)
    const way = circle(file, next, seen)
    if (way !== undefined) return [from, ...way]
  }
  return undefined
}

const house = {
  rules: {
    layers: {
      create (context) {
        const { filename } = context
        const layer = layerOf(filename)
        const check = node => {
          if (!node.source?.value.startsWith('.')) return
          const other = layerOf(resolve(dirname(filename), node.source.value))
          const open = other === layer || (LAYERS.indexOf(other) > LAYERS.indexOf(layer) && !CLOSED.includes(other) && layer !== 'client')
          if (!open) context.report({ node, message: `lib/${layer} must not import from lib/${other}: imports run downwards (${LAYERS.join(', ')})` })
        }
        return {
          Program (node) {
            if (!LAYERS.includes(layer)) context.report({ node, message: `lib/${layer} is none of the layers ${LAYERS.join(', ')}` })
            const way = circle(filename)
            if (way !== undefined) context.report({ node, message: `a circle of imports: ${way.map(file => relative(LIB, file)).join(' -> ')}` })
          },
          ImportDeclaration: check,
          ExportNamedDeclaration: check,
          ExportAllDeclaration: check
        }
      }
    }
  }
}

export default [
  ...neostandard({
    ts: true,
    noJsx: true,
    ignores: ['dist', 'bench/node_modules', '.tap']
  }),
  { files: ['lib/**/*.ts'], plugins: { house }, rules: { 'house/layers': 'error' } }
]
