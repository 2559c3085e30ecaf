"""English wording of the generated worlds."""

from __future__ import annotations

from llmrec.dataset.world.wording import People, Wording

PEOPLE = People(
    facts="{age}, {job} from {place}.",
    jobs="""nurse, teacher, engineer, student, driver, chef, lawyer, farmer, designer, accountant, electrician,
        writer, librarian, pilot, baker, retired""",
    places="""Leeds, Austin, Perth, Dublin, Toronto, Bristol, Denver, Glasgow, Auckland, Boston, Cork, Ottawa,
        Portland, Cardiff, Chicago, Brisbane""",
    names="""Ana, Ben, Cleo, Dan, Eva, Finn, Grace, Hugo, Iris, Jack, Kate, Leo, Mia, Noah, Olga, Paul, Quinn, Rosa,
        Sam, Tess, Uma, Vera, Will, Zoe""",
    fluff=(
        "Has two cats.",
        "Moved last year.",
        "Works night shifts.",
        "Has three children.",
        "Shops on the phone.",
        "Joined with a friend.",
        "Travels a lot.",
        "Sings in a choir.",
    ),
    separator=" and ",
    join=" ",
    edition=" {}",
    capitals=True,
)

SHOP = Wording(
    topics="""
camping: tent, camp stove, hammock, lantern, backpack, sleeping bag, water flask, tarp
cooking: skillet, chef knife, wok, cutting board, saucepan, whisk, casserole, ladle
gardening: trowel, planter, watering can, pruner, seed tray, garden hose, rake, trellis
cycling: bike helmet, saddle, bike pump, handlebar, pannier, bike lock, pedals, bell
home office: desk, office chair, desk lamp, monitor stand, notebook, pen holder, bookshelf, footrest
pets: dog leash, cat tree, pet bed, feeding bowl, dog toy, aquarium, bird cage, litter box
baby care: stroller, crib, baby monitor, high chair, rattle, bib, diaper bag, playmat
coffee: espresso machine, coffee grinder, mug, kettle, milk frother, moka pot, filter, coffee scale
yoga: yoga mat, yoga block, foam roller, stretch band, meditation cushion, leggings, yoga strap, wobble board
photography: tripod, camera bag, lens, flash, photo album, camera strap, light tent, picture frame
woodworking: drill, hand plane, chisel, workbench, clamp, hammer, jigsaw, sander
knitting: yarn, knitting needles, crochet hook, stitch markers, wool basket, loom, pattern book, thimble
""",
    styles="""
handmade: handmade, artisan, carved
minimalist: plain, slim, minimal
rugged: rugged, heavy-duty, all-weather
vintage: vintage, retro, antique
smart: smart, wireless, automatic
eco: bamboo, recycled, organic
budget: basic, budget, value
luxury: deluxe, premium, gilded
""",
    title="{style} {noun}",
    description="{style} {noun} for {topic}, from the {style_name} range of {maker}.",
    makers="""Norvik, Hale & Co, Tamsin, Orbita, Fernhill, Kestrel, Lumo, Baxter, Pinecrest, Solano, Umber, Wren,
        Zephyr, Marlow, Ostra, Quill""",
    good=(
        "Owners still use it after years.",
        "Buyers often order a second one.",
        "Hardly ever sent back.",
        "Tested well beyond its rating.",
    ),
    bad=(
        "Looks better in the picture than in the hand.",
        "Many are sent back.",
        "The finish wears off within weeks.",
        "Smaller than it seems.",
    ),
    plain=("Ships within two days.", "Available in three colours.", "Comes with a short manual.", "New this season."),
    likes="Likes {topics}.",
    prefers="Prefers {styles} things.",
    price=(12.0, 90.0),
)

DOMAINS: dict[str, Wording] = {"shop": SHOP}
