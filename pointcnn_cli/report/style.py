"""The style sheet of a page: light, dark, phone, print. No font, image or script comes from elsewhere."""

from pointcnn_cli.report.palette import list_variables

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:1120px;padding:20px 16px 48px;background:var(--paper);color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;
  overflow-wrap:break-word}
h1,h2,h3{line-height:1.25;margin:0}
h1{font-size:15px;font-weight:600;color:var(--soft)}
h2{font-size:20px;margin:40px 0 8px;padding-top:12px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:20px 0 4px}
p{margin:8px 0;max-width:75ch}
a{color:var(--train)}
.verdict{margin:12px 0 16px;padding:14px 16px;border-left:6px solid var(--soft);background:var(--panel);
  border-radius:4px}
.verdict p{margin:4px 0;max-width:none}
.verdict .sentence{font-size:21px;line-height:1.35;font-weight:600}
.verdict .level{font-size:14px;font-weight:700;letter-spacing:.02em}
.verdict ul{margin:6px 0 0;padding-left:20px}
.bad{border-left-color:var(--bad)} .bad .level{color:var(--bad)}
.caution{border-left-color:var(--caution)} .caution .level{color:var(--caution)}
.good{border-left-color:var(--good)} .good .level{color:var(--good)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:12px 0}
.tiles div{background:var(--panel);border-radius:4px;padding:8px 12px}
.tiles b{display:block;font-size:20px;font-variant-numeric:tabular-nums}
.tiles span{font-size:14px;color:var(--soft)}
nav{font-size:14px;display:flex;flex-wrap:wrap;gap:2px 16px;margin:8px 0}
.note,figcaption,summary{font-size:14px;color:var(--soft)}
.plots{display:flex;flex-wrap:wrap;gap:16px 28px;align-items:flex-start}
.plots>*{min-width:0;max-width:100%}
figure{margin:8px 0;max-width:100%}
figure.plot{width:min(100%,340px)}
figure.wide{width:auto}
figure svg{display:block;max-width:100%;height:auto}
figure .scroll svg{max-width:none}
figure svg text{font-family:inherit!important}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
figcaption{margin-top:4px;max-width:70ch}
.scroll{overflow-x:auto;max-width:100%;margin:8px 0}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;
  vertical-align:top}
.text{text-align:left}
td.text{white-space:normal;max-width:48ch;overflow-wrap:break-word}
th{color:var(--soft);font-weight:600}
dl{margin:8px 0}
dl div{display:grid;grid-template-columns:minmax(110px,190px) minmax(0,1fr);gap:4px 16px;padding:3px 0}
dt{color:var(--soft)} dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--panel);border-radius:4px;padding:10px 12px;overflow-x:auto;font-size:13px;line-height:1.45;
  margin:8px 0}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
details{margin:10px 0} summary{cursor:pointer}
.finding{margin:14px 0;padding-left:12px;border-left:4px solid var(--line)}
.finding p{margin:2px 0}
.mark{font-weight:700;font-size:14px}
.CONFIRMED{border-left-color:var(--bad)} .CONFIRMED .mark{color:var(--bad)}
.SUSPECTED{border-left-color:var(--caution)} .SUSPECTED .mark{color:var(--caution)}
@media (max-width:520px){.verdict .sentence{font-size:18px} dl div{grid-template-columns:minmax(0,1fr);gap:0}
  .tiles{grid-template-columns:1fr 1fr}}
@media print{body{max-width:none;padding:0;font-size:11pt} nav{display:none}
  figure,.verdict,.finding,tr{break-inside:avoid} h2,h3{break-after:avoid}
  .scroll,pre{overflow:visible} pre{white-space:pre-wrap} figure .scroll svg{max-width:100%}
  .tiles div,pre{border:1px solid var(--line)} .verdict{outline:1px solid var(--line)}
  .plots{display:block} .plots>*{display:inline-block;vertical-align:top;margin-right:12px}
  figure.plot{width:330px} details::details-content{content-visibility:visible;block-size:auto}}
"""


def build_style() -> str:
    """The whole sheet. Print is always light."""
    light, dark = list_variables(dark=False), list_variables(dark=True)
    schemes = (
        f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )
    return schemes + _RULES
